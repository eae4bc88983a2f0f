"""What changes from step to step of the inner loop, and how an update and a densification change it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from learn2splat.densify.base import Densified, Densifier, NoDensifier, Statistics
from learn2splat.optim.base import OptimizerState, SceneOptimizer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

AVERAGE_WINDOW = 0.1
"""The averaged scene spans about this share of the steps so far."""
LOSS_MEMORY = 0.95
"""Decay of the running loss per step."""


@dataclass(frozen=True)
class RolloutState:
    """Everything that changes from step to step, but for the sampler's state.

    Args:
        scene: the current scene.
        optimizer: state of the optimizer.
        average: running average of the parameters, or None.
        best: the output scene at the lowest probe loss so far; without probe views, at the lowest running loss.
        footprint: pixel footprints [N], or None when the optimizer does not need them.
        neighbours: rows of the nearest Gaussians [N, k], likewise.
        clusters: part of the scene of each Gaussian [N], likewise.
        statistics: of the densifier, one row per Gaussian.
        step: updates made.
        first_loss, running_loss: infinite before the first step, and after a densification that begins a new descent.
        best_loss: that of ``best``; infinite before the first step.
        probe_loss: latest loss on the probe views; infinite before the first, or without any.
        probe_step: when the probe views are looked at next.
        seconds_render, seconds_update, seconds_warmup: totals.
    """

    scene: GaussianScene
    optimizer: OptimizerState
    average: GaussianScene | None
    best: GaussianScene
    footprint: Tensor | None = None
    neighbours: Tensor | None = None
    clusters: Tensor | None = None
    statistics: Statistics = field(default_factory=dict)
    step: int = 0
    first_loss: float = math.inf
    running_loss: float = math.inf
    best_loss: float = math.inf
    probe_loss: float = math.inf
    probe_step: int = 0
    seconds_render: float = 0.0
    seconds_update: float = 0.0
    seconds_warmup: float = 0.0

    @classmethod
    def start(
        cls,
        scene: GaussianScene,
        optimizer: SceneOptimizer,
        average: bool = True,
        densifier: Densifier = NoDensifier(),
    ) -> RolloutState:
        """The state before the first step; ``average`` keeps a running average of the parameters."""
        averaged = scene if average else None
        return cls(scene, optimizer.init(scene), averaged, scene, statistics=densifier.init(scene))

    @property
    def output(self) -> GaussianScene:
        """The scene to evaluate and to write."""
        return self.scene if self.average is None else self.average

    @property
    def seconds(self) -> float:
        """Optimisation time so far, warm-up excluded."""
        return self.seconds_render + self.seconds_update


def advanced(
    before: RolloutState, scene: GaussianScene, optimizer_state: OptimizerState, loss: float, by_loss: bool
) -> RolloutState:
    """The state after an update to ``scene``; ``loss`` was measured before it and, if ``by_loss``, tells the best."""
    step = before.step + 1
    weight = min(1.0, 1.0 / (AVERAGE_WINDOW * step))
    average = None if before.average is None else before.average.map(lambda old, new: old.lerp(new, weight), scene)
    known = math.isfinite(before.running_loss)
    running_loss = LOSS_MEMORY * before.running_loss + (1 - LOSS_MEMORY) * loss if known else loss
    improved = by_loss and running_loss < before.best_loss
    return replace(
        before,
        scene=scene,
        optimizer=optimizer_state,
        average=average,
        best=before.output if improved else before.best,
        step=step,
        first_loss=before.first_loss if known else loss,
        running_loss=running_loss,
        best_loss=running_loss if improved else before.best_loss,
    )


def densified(state: RolloutState, change: Densified, optimizer: SceneOptimizer) -> RolloutState:
    """The state after a densification: everything that has a row per Gaussian follows its lineage.

    An entry of the averaged scene goes on from its parent's average, or starts from the current value where the
    densification changed it. Parameters that restart in all rows are the exception: their average absorbs the change
    slowly, so that the output stays presentable while the scene recovers.
    """
    lineage = change.lineage
    if lineage is None:
        return replace(state, scene=change.scene, statistics=change.statistics)
    average = None if state.average is None else _averaged(state.average, state.scene, change.scene, lineage)
    state = replace(
        state,
        scene=change.scene,
        optimizer=optimizer.reindex(state.optimizer, lineage),
        average=average,
        footprint=None if state.footprint is None else lineage.take(state.footprint, None),
        clusters=None if state.clusters is None else lineage.take(state.clusters, None),
        neighbours=None,
        statistics=change.statistics,
    )
    return replace(state, first_loss=math.inf, running_loss=math.inf) if lineage.restarted else state


def _averaged(average: GaussianScene, before: GaussianScene, after: GaussianScene, lineage: Lineage) -> GaussianScene:
    """The averaged scene in the rows of ``after``."""
    carried, old = average.take(lineage.parent), before.take(lineage.parent)

    def follow(name: str, current: Tensor) -> Tensor:
        fresh = lineage.fresh.view(-1, *[1] * (current.ndim - 1))
        changed = fresh if name in lineage.restarted else fresh | (current != getattr(old, name))
        return torch.where(changed, current, getattr(carried, name))

    return GaussianScene(*(follow(name, current) for name, current in after.items()))
