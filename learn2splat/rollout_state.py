"""What an inner loop carries from step to step, and what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

from torch import Tensor

from learn2splat.optim.base import OptimizerState, SceneOptimizer
from learn2splat.optim.guard import MEMORY, Guard
from learn2splat.scene.gaussians import GaussianScene

AVERAGE_WINDOW = 0.1
"""The averaged scene spans about this share of the steps so far."""


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
        best: the output scene at the lowest probe loss so far; without probe views, at the lowest running loss.
        footprint: pixel footprints [N], or None when the optimizer does not need them.
        neighbours: rows of the nearest Gaussians [N, k], likewise.
        clusters: part of the scene of each Gaussian [N], likewise.
        step: updates made.
        first_loss, running_loss, best_loss: infinite before the first step; the last is that of ``best``.
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
    step: int = 0
    first_loss: float = math.inf
    running_loss: float = math.inf
    best_loss: float = math.inf
    probe_loss: float = math.inf
    probe_step: int = 0
    guard: Guard = field(default_factory=Guard)
    seconds_render: float = 0.0
    seconds_update: float = 0.0
    seconds_warmup: float = 0.0

    @classmethod
    def start(cls, scene: GaussianScene, optimizer: SceneOptimizer, average: bool = True) -> RolloutState:
        """The state before the first step; ``average`` keeps a running average of the parameters."""
        return cls(scene, optimizer.init(scene), scene if average else None, scene)

    @property
    def output(self) -> GaussianScene:
        """The scene to evaluate and to write."""
        return self.scene if self.average is None else self.average

    @property
    def seconds(self) -> float:
        """Optimisation time so far, warm-up excluded."""
        return self.seconds_render + self.seconds_update

    @property
    def has_risen(self) -> bool:
        """Whether the running loss exceeds that of the best scene by more than noise; asked without probe views."""
        return self.running_loss > self.guard.margin * self.best_loss

    def advanced(
        self, scene: GaussianScene, optimizer_state: OptimizerState, loss: float, by_loss: bool
    ) -> RolloutState:
        """The state after an update to ``scene``; ``loss`` was measured before it and tells the best if ``by_loss``."""
        step = self.step + 1
        weight = min(1.0, 1.0 / (AVERAGE_WINDOW * step))
        average = None if self.average is None else self.average.map(lambda old, new: old.lerp(new, weight), scene)
        known = math.isfinite(self.running_loss)
        running_loss = MEMORY * self.running_loss + (1 - MEMORY) * loss if known else loss
        improved = by_loss and running_loss < self.best_loss
        return replace(
            self,
            scene=scene,
            optimizer=optimizer_state,
            average=average,
            best=self.output if improved else self.best,
            step=step,
            first_loss=self.first_loss if math.isfinite(self.first_loss) else loss,
            running_loss=running_loss,
            best_loss=running_loss if improved else self.best_loss,
        )

    def gone_back(self, optimizer: SceneOptimizer, by_loss: bool) -> RolloutState:
        """The best scene, from which ``optimizer`` starts afresh; ``by_loss`` as in `advanced`."""
        return replace(
            self,
            scene=self.best,
            optimizer=optimizer.init(self.best),
            average=None if self.average is None else self.best,
            footprint=None,
            neighbours=None,
            clusters=None,
            running_loss=self.best_loss if by_loss else self.first_loss,  # what it was there is not known by probe
        )
