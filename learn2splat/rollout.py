"""The one inner loop: render -> loss -> gradients -> update.

Learned optimizers are trained on it, users run it, the harness measures it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from learn2splat.data.views import ViewSampler
from learn2splat.optim.base import (
    CLUSTERS,
    NEIGHBOURS,
    Need,
    OptimizerState,
    SceneOptimizer,
    StepContext,
    apply_update,
    to_device,
)
from learn2splat.render.base import GradientRequest
from learn2splat.scene.clusters import clusters
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.neighbours import nearest_neighbours
from learn2splat.scene_loss import LossGradient, SceneLoss

GEOMETRY_EVERY = 100
"""Steps between two computations of pixel footprints and neighbours: both change slowly."""
AVERAGE_WINDOW = 0.1
"""The averaged scene spans about this share of the steps so far."""
LOSS_MEMORY = 0.95
"""Decay of the running loss per step."""
PROBE_GROWTH = 1.1
"""Factor between two steps at which probe views are looked at."""
DIVERGED_FACTOR = 2.0
"""A running loss above this many times the first loss counts as divergence."""


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
        which: "averaged", "last", or "best" (by the probe loss, or the running loss after a failure).
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


class Rollout:
    """Optimises a scene.

    Args:
        scene_loss: what is minimised.
        train: views to optimise on.
        optimizer: makes updates from gradients.
        sampler: draws batches of ``train``.
        state: `RolloutState.start`, or a restored one.
        horizon: number of steps when known in advance; schedules may use it.
        probe: views held out of ``train`` that decide which scene is kept; the time they take counts. A run with few
            views over-fits, and only views that are not optimised on can tell.
    """

    def __init__(
        self,
        scene_loss: SceneLoss,
        train: Sequence[int],
        optimizer: SceneOptimizer,
        sampler: ViewSampler,
        state: RolloutState,
        horizon: int | None = None,
        probe: Sequence[int] = (),
    ) -> None:
        if set(probe) & set(train):
            raise ValueError(f"probe views {sorted(set(probe) & set(train))} are optimised on; leave them out of train")
        self.probe = list(probe)
        to_device(optimizer, scene_loss.device)
        self.scene_loss, self.train, self.optimizer, self.sampler = scene_loss, list(train), optimizer, sampler
        self.state, self.horizon = state, horizon
        self.train_cameras = scene_loss.cameras.take(self.train)
        self.extent_world = self.train_cameras.extent_world or 1.0
        self.request = GradientRequest(view_squares=Need.VIEW_SQUARES in optimizer.needs)
        self._ended = (OutcomeKind.OK, "")

    def run(
        self, steps: int, *, time_budget: float = math.inf, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[StepRecord]:
        """Step until ``steps`` updates were made in all, and report each; `outcome` then tells how it ended.

        Args:
            steps: total number of updates, those before a resume included.
            time_budget: optimisation seconds after which to stop.
            stop: asked before each step.
        """
        self._ended = (OutcomeKind.OK, "")
        try:
            self._warm_up()
            while self.state.step < steps and self.state.seconds < time_budget:
                if stop():
                    self._ended = (OutcomeKind.INTERRUPTED, f"interrupted after {self.state.step} steps")
                    return
                record = self.step()
                if record is None:
                    self._ended = (
                        OutcomeKind.NONFINITE,
                        f"the loss or a gradient is not finite at step {self.state.step}; lower the learning rates",
                    )
                    return
                yield record
                if self.state.running_loss > DIVERGED_FACTOR * self.state.first_loss:
                    self._ended = (
                        OutcomeKind.DIVERGED,
                        f"the running loss {self.state.running_loss:.3f} is over {DIVERGED_FACTOR} x the first loss "
                        f"{self.state.first_loss:.3f} at step {self.state.step}; lower the learning rates",
                    )
                    return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._ended = (
                OutcomeKind.OUT_OF_MEMORY,
                f"out of memory at step {self.state.step}: lower --max-size, --batch-views or --max-gaussians",
            )

    def outcome(self) -> Outcome:
        """How the last `run` ended, with the scene to keep."""
        kind, message = self._ended
        if kind in (OutcomeKind.OK, OutcomeKind.INTERRUPTED) and not self.probe:
            which = "last" if self.state.average is None else "averaged"
            return Outcome(kind, self.state.output, which, self.state.step, message)
        return Outcome(kind, self.state.best, "best", self.state.step, message)

    def step(self) -> StepRecord | None:
        """One update; None, and an unchanged state, when the loss or a gradient is not finite."""
        before, started = self.state, self._clock()
        views = self.sampler.draw()
        batch = self.scene_loss.gradient(before.scene, views, self.request)
        rendered = self._clock()
        if not (math.isfinite(batch.loss) and batch.grads.is_finite()):
            return None
        before = self._with_geometry(before)
        context = self._context(before, batch, len(views))
        update, optimizer_state = self.optimizer.update(batch.grads, before.optimizer, before.scene, context)
        scene = apply_update(before.scene, update)
        after = self._with_probe(_advance(before, scene, optimizer_state, batch.loss, by_loss=not self.probe))
        finished = self._clock()
        self.state = replace(
            after,
            seconds_render=before.seconds_render + rendered - started,
            seconds_update=before.seconds_update + finished - rendered,
        )
        return StepRecord(
            after.step, batch.loss, batch.l1, batch.ssim, rendered - started, finished - rendered, len(scene)
        )

    def _context(self, state: RolloutState, batch: LossGradient, batch_views: int) -> StepContext:
        return StepContext(
            step=state.step,
            horizon=self.horizon,
            batch_views=batch_views,
            train_views=len(self.train),
            extent_world=self.extent_world,
            visible=batch.visible,
            loss=batch.loss,
            pixel_footprint_world=state.footprint,
            view_squares=batch.view_squares,
            neighbours=state.neighbours,
            clusters=state.clusters,
            probe_loss=state.probe_loss if self.probe else None,
        )

    def _with_geometry(self, state: RolloutState) -> RolloutState:
        """The state with footprints and neighbours as the optimizer needs them, renewed when they are due."""
        needs, means = self.optimizer.needs, state.scene.means
        due = state.step % GEOMETRY_EVERY == 0
        if Need.PIXEL_FOOTPRINT in needs and (due or state.footprint is None):
            near = self.scene_loss.renderer.settings.near
            state = replace(state, footprint=pixel_footprint_world(means, self.train_cameras, near))
        if Need.NEIGHBOURS in needs and (due or state.neighbours is None):
            state = replace(state, neighbours=nearest_neighbours(means, NEIGHBOURS))
        if Need.CLUSTERS in needs and (due or state.clusters is None):
            state = replace(state, clusters=clusters(means, CLUSTERS))
        return state

    def _with_probe(self, state: RolloutState) -> RolloutState:
        """The state with the probe views looked at, when that is due."""
        if not self.probe or state.step < state.probe_step:
            return state
        loss = self.scene_loss.value(state.output, self.probe)
        state = replace(state, probe_loss=loss, probe_step=max(1, math.ceil(PROBE_GROWTH * state.step)))
        return replace(state, best=state.output, best_loss=loss) if loss < state.best_loss else state

    def _warm_up(self) -> None:
        """Load libraries and fill caches outside the measured time; changes nothing else."""
        started = self._clock()
        self.scene_loss.gradient(self.state.scene, self.train[:1], self.request)
        for view in self.train:
            self.scene_loss.data.photos[view]  # decoded now, and kept as far as the cache goes
        if self.state.step == 0:
            self.state = self._with_probe(self.state)  # the scene to beat
        self.state = replace(self.state, seconds_warmup=self.state.seconds_warmup + self._clock() - started)

    def _clock(self) -> float:
        if self.scene_loss.device.type == "cuda":
            torch.cuda.synchronize(self.scene_loss.device)
        return time.perf_counter()


def _advance(
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is how torch or Python report that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
