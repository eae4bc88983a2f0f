"""What a window of differentiable steps leaves behind: updates with their graph, and the way back through births."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from learn2splat.densify.base import Densified, Densifier, DensifyContext, ScreenEvidence, Statistics
from learn2splat.optim.base import OptimizerState, SceneOptimizer, StepContext, zeros_like
from learn2splat.optim.wrapped import Wrapped
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

PullBack = Callable[[GaussianScene, bool], GaussianScene]
"""(derivative by the Gaussians after a densification, whether of the averaged scene) -> by those before it."""


@dataclass(frozen=True)
class TapedStep:
    """One step of a window.

    Args:
        update: with its graph to the optimizer's weights.
        grads: the batch gradient that the update was made from; constant.
        births: of the densifications between this step and the next one of the tape, or the present.
    """

    update: GaussianScene
    grads: GaussianScene
    births: list[PullBack] = field(default_factory=list)

    def before_births(self, credit: GaussianScene, averaged: bool = False) -> GaussianScene:
        """A derivative by the Gaussians after the step's densifications, as one by those that it updated.

        Args:
            credit: derivative by the present Gaussians.
            averaged: whether they are those of the averaged scene, which a restart leaves as they are.
        """
        for pull_back in reversed(self.births):
            credit = pull_back(credit, averaged)
        return credit


class Taped(Wrapped):
    """A `SceneOptimizer` that passes another's updates on as constants and keeps them with their graph."""

    def __init__(self, optimizer: SceneOptimizer) -> None:
        super().__init__(optimizer)
        self.tape: list[TapedStep] = []

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        update, state = self.optimizer.update(grads, state, scene, context)
        self.tape.append(TapedStep(update, grads))
        return update.detach(), state


class TapedDensifier:
    """A `Densifier` that passes another's changes on as constants and keeps the way back on the tape's last step.

    Choices and random numbers count as constants, and so does noise that leaves every row in place.
    """

    def __init__(self, densifier: Densifier, tape: list[TapedStep]) -> None:
        self.densifier, self.tape = densifier, tape

    @property
    def needs_screen(self) -> bool:
        return self.densifier.needs_screen

    def init(self, scene: GaussianScene) -> Statistics:
        return self.densifier.init(scene)

    def observe(self, statistics: Statistics, evidence: ScreenEvidence | None) -> Statistics:
        return self.densifier.observe(statistics, evidence)

    def penalised(self, grads: GaussianScene, scene: GaussianScene, extent_world: float) -> GaussianScene:
        return self.densifier.penalised(grads, scene, extent_world)

    def densify(self, statistics: Statistics, scene: GaussianScene, context: DensifyContext) -> Densified | None:
        leaves = scene.map(lambda tensor: tensor.detach().requires_grad_(True))
        with torch.enable_grad():
            change = self.densifier.densify(statistics, leaves, context)
        if change is None:
            return None
        if change.lineage is not None and self.tape:
            self.tape[-1].births.append(_pull_back(leaves, change.scene, change.lineage))
        return replace(change, scene=change.scene.detach())


def _pull_back(before: GaussianScene, after: GaussianScene, lineage: Lineage) -> PullBack:
    """The transposed derivative of ``after`` by ``before``."""

    def pull_back(credit: GaussianScene, averaged: bool) -> GaussianScene:
        restarted = lineage.restarted if averaged else frozenset()
        pairs = [(tensor, name) for name, tensor in after.items() if name not in restarted and tensor.requires_grad]
        found = torch.autograd.grad(
            [tensor for tensor, _ in pairs],
            before.tensors(),
            [getattr(credit, name) for _, name in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        zeros = zeros_like(before.detach())
        pulled = dict(zip(dict(before.items()), found, strict=True))
        inherited = {name: zero if pulled[name] is None else pulled[name] for name, zero in zeros.items()}
        kept = (~lineage.fresh).nonzero()[:, 0]
        for name in restarted:  # the average takes its rows along, whatever the restart did to the scene
            rows = getattr(credit, name)[kept]
            inherited[name] = inherited[name].index_add(0, lineage.parent[kept], rows)
        return GaussianScene(**inherited)

    return pull_back
