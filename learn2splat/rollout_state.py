"""What an inner loop carries from step to step, and what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor

from learn2splat.densify.base import Densified, Densifier, NoDensifier, Statistics
from learn2splat.optim.base import Need, OptimizerState, SceneOptimizer, first_state
from learn2splat.optim.guard import MEMORY, Guard
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

AVERAGE_WINDOW = 0.1
"""The averaged scene spans about this share of the steps so far."""
RECOVERED = 1.05
"""A scene has recovered from a restart when the running loss is this many times the one before, or less ..."""
LONGEST_RECOVERY = 1000
"""... or after so many steps."""


class OutcomeKind(Enum):
    """How a run ended."""

    OK = "ok"
    DIVERGED = "diverged"
    NONFINITE = "nonfinite"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with the scene to keep.

    Args:
        kind: what happened.
        scene: the averaged scene when there is one, else the last; after a failure the best so far.
        which: "averaged", "last", or "best" (by the probe loss, or by the running loss after a failure or a rise).
        steps: updates made.
        message: one sentence for a person; empty when all went well.
    """

    kind: OutcomeKind
    scene: GaussianScene
    which: str
    steps: int
    message: str = ""


@dataclass(frozen=True)
class StepRecord:
    """What one step did; ``step`` counts updates made, so the first record has 1.

    Losses belong to the batch before the update. Times are of this step, in seconds.
    """

    step: int
    loss: float
    l1: float
    ssim: float
    seconds_render: float
    seconds_update: float
    gaussians: int


@dataclass(frozen=True)
class RolloutState:
    """Everything that changes from step to step, but for the sampler's state.

    Args:
        scene: the current scene.
        optimizer: state of the optimizer.
        average: running average of the parameters, or None.
        average_from: updates made when it began.
        awaited_loss: the average stays as it is until the running loss is back at this; infinite when it goes on.
        best: the output scene at the lowest probe loss so far; without probe views, at the lowest running loss.
        footprint: pixel footprints [N], or None when the optimizer does not need them.
        neighbours: rows of the nearest Gaussians [N, k], likewise.
        clusters: part of the scene of each Gaussian [N], likewise.
        statistics: of the densifier, one row per Gaussian.
        step: updates made.
        first_loss, running_loss: infinite before the first step, and after a densification that begins a new descent.
        lowest_loss: the lowest running loss of this descent, likewise.
        best_loss: that of ``best``; infinite before the first step.
        probe_loss: latest loss on the probe views; infinite before the first, or without any.
        probe_step: when the probe views are looked at next.
        guard: what the guard knows; without a guard it just estimates the noise of the loss.
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
    lowest_loss: float = math.inf
    best_loss: float = math.inf
    probe_loss: float = math.inf
    probe_step: int = 0
    average_from: int = 0
    awaited_loss: float = math.inf
    guard: Guard = field(default_factory=Guard)
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
        features: Tensor | None = None,
    ) -> RolloutState:
        """The state before the first step.

        Args:
            scene: N Gaussians.
            optimizer: of the run.
            average: whether a running average of the parameters is kept. What goes by renderings corrects itself at
                every step and is not averaged.
            densifier: of the run.
            features: [N, C] what an initialiser knows about the Gaussians, for an `InformedOptimizer`.
        """
        averaged = scene if average and Need.RENDERINGS not in optimizer.needs else None
        state = first_state(optimizer, scene, features)
        return cls(scene, state, averaged, scene, statistics=densifier.init(scene))

    @property
    def output_is(self) -> str:
        """What `output` is: "last", "averaged", or "best" while the average waits."""
        if self.average is None:
            return "last"
        return "best" if math.isfinite(self.awaited_loss) else "averaged"

    @property
    def output(self) -> GaussianScene:
        """The scene to evaluate and to write."""
        return self.best if self.output_is == "best" else self.averaged

    @property
    def averaged(self) -> GaussianScene:
        """The average, even while it waits, and without one the scene: of the rows of the scene in any case."""
        return self.scene if self.average is None else self.average

    @property
    def seconds(self) -> float:
        """Optimisation time so far, warm-up excluded."""
        return self.seconds_render + self.seconds_update

    @property
    def has_risen(self) -> bool:
        """Whether the running loss exceeds the lowest of this descent by more than noise."""
        return self.running_loss > self.guard.margin * self.lowest_loss

    def advanced(
        self, scene: GaussianScene, optimizer_state: OptimizerState, loss: float, by_loss: bool
    ) -> RolloutState:
        """The state after an update to ``scene``; ``loss`` was measured before it and tells the best if ``by_loss``."""
        step = self.step + 1
        known = math.isfinite(self.running_loss)
        running_loss = MEMORY * self.running_loss + (1 - MEMORY) * loss if known else loss
        average, average_from, awaited_loss = self.average, self.average_from, self.awaited_loss
        waits = math.isfinite(awaited_loss)
        if waits and (running_loss <= RECOVERED * awaited_loss or step > average_from + LONGEST_RECOVERY):
            average_from, awaited_loss, waits = self.step, math.inf, False
        if average is not None and not waits:
            weight = min(1.0, 1.0 / (AVERAGE_WINDOW * (step - average_from)))
            average = average.map(lambda old, new: old.lerp(new, weight), scene)
        improved = by_loss and running_loss < self.best_loss
        return replace(
            self,
            scene=scene,
            optimizer=optimizer_state,
            average=average,
            average_from=average_from,
            awaited_loss=awaited_loss,
            best=self.output if improved else self.best,
            step=step,
            first_loss=self.first_loss if math.isfinite(self.first_loss) else loss,
            running_loss=running_loss,
            lowest_loss=min(self.lowest_loss, running_loss),
            best_loss=running_loss if improved else self.best_loss,
        )

    def densified(self, change: Densified, optimizer: SceneOptimizer) -> RolloutState:
        """The state after a densification: everything that has a row per Gaussian follows its lineage.

        An entry of the averaged scene goes on from its parent's average, or starts from the current value where the
        densification changed it. Parameters that restart in all rows are the exception: the average then waits until
        the scene has recovered, and begins anew; so long the best scene is the output. Losses from before no longer
        compare. The guard forgets the course of the loss at every change of rows: the optimizer is not to blame.
        """
        lineage = change.lineage
        if lineage is None:
            return replace(self, scene=change.scene, statistics=change.statistics)
        after = replace(
            self,
            scene=change.scene,
            optimizer=optimizer.reindex(self.optimizer, lineage),
            average=None if self.average is None else _averaged(self.average, self.scene, change.scene, lineage),
            footprint=None if self.footprint is None else lineage.take(self.footprint, None),
            clusters=None if self.clusters is None else lineage.take(self.clusters, None),
            neighbours=None,
            statistics=change.statistics,
            guard=self.guard.anew(),
        )
        if not lineage.restarted:
            return after
        return replace(
            after,
            first_loss=math.inf,
            running_loss=math.inf,
            lowest_loss=math.inf,
            probe_loss=math.inf,
            average_from=self.step,
            awaited_loss=min(self.awaited_loss, self.running_loss),
        )

    def gone_back(self, optimizer: SceneOptimizer, densifier: Densifier, by_loss: bool) -> RolloutState:
        """The best scene, from which ``optimizer`` and ``densifier`` start afresh; ``by_loss`` as in `advanced`."""
        loss = self.best_loss if by_loss else self.first_loss  # what it was there is not known by probe
        return replace(
            self,
            scene=self.best,
            optimizer=optimizer.init(self.best),
            average=None if self.average is None else self.best,
            awaited_loss=math.inf,
            footprint=None,
            neighbours=None,
            clusters=None,
            statistics=densifier.init(self.best),
            running_loss=loss,
            lowest_loss=loss,
        )


def _averaged(average: GaussianScene, before: GaussianScene, after: GaussianScene, lineage: Lineage) -> GaussianScene:
    """The averaged scene in the rows of ``after``."""
    carried, old = average.take(lineage.parent), before.take(lineage.parent)

    def follow(name: str, current: Tensor) -> Tensor:
        fresh = lineage.fresh.view(-1, *[1] * (current.ndim - 1))
        changed = fresh if name in lineage.restarted else fresh | (current != getattr(old, name))
        return torch.where(changed, current, getattr(carried, name))

    return GaussianScene(*(follow(name, current) for name, current in after.items()))
