"""The one inner loop: render -> loss -> gradients -> update -> densify.

Learned optimizers are trained on it, users run it, the harness measures it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from learn2splat.data.views import ViewSampler
from learn2splat.densify.base import Growth, NoDensifier, ScreenEvidence
from learn2splat.errors import UserError
from learn2splat.memory import MemoryLimitError
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
from learn2splat.optim.guard import Guard
from learn2splat.proximal import Proximal, pulled
from learn2splat.render.base import GradientRequest
from learn2splat.rollout_state import Outcome, OutcomeKind, RolloutState, StepRecord
from learn2splat.scene.clusters import clusters
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.neighbours import nearest_neighbours
from learn2splat.scene_loss import LossGradient, SceneLoss
from learn2splat.scene_model import scene_model

GEOMETRY_EVERY = 100
"""Steps between two computations of pixel footprints and neighbours: both change slowly. An optimizer by renderings
makes few and large steps, and gets them anew at each."""
PROBE_GROWTH = 1.1
"""Factor between two steps at which probe views are looked at."""
DIVERGED_FACTOR = 2.0
"""A running loss above this many times the first loss counts as divergence."""


class Rollout:
    """Optimises a scene.

    Args:
        scene_loss: what is minimised.
        train: views to optimise on.
        optimizer: makes updates from gradients.
        sampler: draws batches of ``train``.
        state: `RolloutState.start`, or a restored one.
        horizon: number of steps when known in advance; the optimizer's schedules may use it.
        probe: views held out of ``train`` that decide which scene is kept; the time they take counts. A run with few
            views over-fits, and only views that are not optimised on can tell.
        guarded: a learned optimizer leans on its base when it does worse (`learn2splat.optim.guard`), and a run whose
            loss has risen ends with its best scene.
        growth: how the set of Gaussians changes.
        proximal: a pull towards an initial scene that is added to the loss of every batch; what is reported and what
            the guard watches is the loss without it. The Gaussians must then stay the same.
        head_start: how many updates the initial scene is worth; an optimizer's schedules begin there.
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
        guarded: bool = False,
        growth: Growth = Growth(),
        proximal: Proximal | None = None,
        head_start: int = 0,
    ) -> None:
        if set(probe) & set(train):
            raise ValueError(f"probe views {sorted(set(probe) & set(train))} are optimised on; leave them out of train")
        self.probe = list(probe)
        to_device(optimizer, scene_loss.device)
        self.scene_loss, self.train, self.optimizer, self.sampler = scene_loss, list(train), optimizer, sampler
        self.state, self.horizon, self.growth, self.head_start = state, horizon, growth, head_start
        self.train_cameras = scene_loss.cameras.take(self.train)
        self.photo_side_px = self.train_cameras.longest_side
        self.extent_world = self.train_cameras.extent_world or 1.0
        self.guarded, self.leans = guarded, guarded and Need.TRUST in optimizer.needs
        self.by_renderings, self.proximal = Need.RENDERINGS in optimizer.needs, proximal
        if proximal is not None and (self.by_renderings or not isinstance(growth.densifier, NoDensifier)):
            raise UserError("uncertainty needs densify=none, and an optimizer that goes by gradients")
        self.by_gradients = Need.GRADIENTS in optimizer.needs or not self.by_renderings
        if growth.densifier.needs_screen and not self.by_gradients:
            raise UserError("this densifier watches gradients and this optimizer uses none: give densify=none or mcmc")
        self.request = GradientRequest(
            means2d_px=growth.densifier.needs_screen, view_squares=Need.VIEW_SQUARES in optimizer.needs
        )
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
                    if self._retreat():
                        continue
                    self._ended = (
                        OutcomeKind.NONFINITE,
                        f"the loss or the scene is not finite after step {self.state.step}; lower the learning rates",
                    )
                    return
                yield record
                if self.state.running_loss > DIVERGED_FACTOR * self.state.first_loss and not self._retreat():
                    self._ended = (
                        OutcomeKind.DIVERGED,
                        f"the running loss {self.state.running_loss:.3f} is over {DIVERGED_FACTOR} x the first loss "
                        f"{self.state.first_loss:.3f} at step {self.state.step}; lower the learning rates",
                    )
                    return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            what = (
                error if isinstance(error, MemoryLimitError) else "lower --max-size, --batch-views or --max-gaussians"
            )
            self._ended = (OutcomeKind.OUT_OF_MEMORY, f"out of memory at step {self.state.step}: {what}")

    def outcome(self) -> Outcome:
        """How the last `run` ended, with the scene to keep."""
        kind, message = self._ended
        ended_well = kind in (OutcomeKind.OK, OutcomeKind.INTERRUPTED) and not (self.guarded and self.state.has_risen)
        if ended_well and not self.probe:
            which = self.state.output_is
            return Outcome(kind, self.state.output, which, self.state.step, message)
        return Outcome(kind, self.state.best, "best", self.state.step, message)

    def step(self) -> StepRecord | None:
        """One update; None, and an unchanged state, when the loss or the new scene is not finite."""
        before, started = self.state, self._clock()
        views = self.sampler.draw()
        sh_degree = self.growth.sh_degree(before.step, before.scene.sh_degree)
        batch = self._measured(before.scene, views, sh_degree)
        rendered = self._clock()
        if not math.isfinite(batch.loss):
            return None
        before = self._with_geometry(before)
        scene, optimizer_state, guard = self._updated(before, batch, views, sh_degree)
        if not scene.is_finite():  # nor then was a gradient, or else the update is at fault
            return None
        after = before.advanced(scene, optimizer_state, batch.loss, by_loss=not self.probe)
        after = self._densified(replace(after, guard=guard.observe(batch.loss)), batch.screen)
        after = self._with_probe(after)
        finished = self._clock()
        self.state = replace(
            after,
            seconds_render=before.seconds_render + rendered - started,
            seconds_update=before.seconds_update + finished - rendered,
        )
        if after.guard.alarmed:
            self._retreat()
        return StepRecord(
            after.step, batch.loss, batch.l1, batch.ssim, rendered - started, finished - rendered, len(after.scene)
        )

    def _measured(self, scene: GaussianScene, views: Sequence[int], sh_degree: int | None = None) -> LossGradient:
        """Loss and gradient on ``views``; for an optimizer by renderings, on all training views, with those."""
        if self.by_renderings:
            return self.scene_loss.rendered(scene, self.train, sh_degree, self.request if self.by_gradients else None)
        return self.scene_loss.gradient(scene, views, self.request, sh_degree)

    def _updated(
        self, before: RolloutState, batch: LossGradient, views: Sequence[int], sh_degree: int
    ) -> tuple[GaussianScene, OptimizerState, Guard]:
        """The next scene and optimizer state; at a trial, of the learned or of the base optimizer."""
        context, guard = self._context(before, batch, views, sh_degree), before.guard
        grads = self.growth.densifier.penalised(batch.grads, before.scene, self.extent_world)
        if self.proximal is not None:
            grads = grads.map(torch.add, self.proximal.gradient(before.scene))

        def stepped(trust: float) -> tuple[GaussianScene, OptimizerState]:
            given = replace(context, trust=trust)
            update, state = self.optimizer.update(grads, before.optimizer, before.scene, given)
            return apply_update(before.scene, update), state

        if not self.leans or before.step < guard.trial_step:
            return *stepped(guard.trust), guard
        learned = stepped(1.0)
        started = self._clock()
        loss = self.scene_loss.value(learned[0], views, sh_degree)
        chosen, passed = learned, guard.passes(batch.loss, loss)
        if not passed:
            base = stepped(0.0)
            passed = guard.passes(batch.loss, loss, self.scene_loss.value(base[0], views, sh_degree))
            chosen = learned if passed else base
        guard = guard.trust_in(before.step) if passed else guard.lean(before.step)
        return *chosen, replace(guard, seconds=guard.seconds + self._clock() - started)

    def _retreat(self) -> bool:
        """Go back to the best scene and go on with the base optimizer; False when there is nothing to lean on."""
        state = self.state
        if not self.leans or state.guard.trust == 0:
            return False
        gone_back = state.gone_back(self.optimizer, self.growth.densifier, by_loss=not self.probe)
        self.state = replace(gone_back, guard=state.guard.lean(state.step))
        return True

    def _context(self, state: RolloutState, batch: LossGradient, views: Sequence[int], sh_degree: int) -> StepContext:
        model = scene_model(self.scene_loss, self.optimizer.needs, state.scene, views, sh_degree)
        return StepContext(
            step=self.head_start + state.step,
            horizon=None if self.horizon is None else self.head_start + self.horizon,
            batch_views=len(self.train if self.by_renderings else views),
            train_views=len(self.train),
            extent_world=self.extent_world,
            visible=batch.visible,
            loss=batch.loss,
            pixel_footprint_world=state.footprint,
            view_squares=batch.view_squares,
            neighbours=state.neighbours,
            clusters=state.clusters,
            probe_loss=state.probe_loss if self.probe else None,
            model=pulled(model, self.proximal, state.scene),
            renderings=batch.renderings,
            photo_side_px=self.photo_side_px,
        )

    def _densified(self, state: RolloutState, evidence: ScreenEvidence | None) -> RolloutState:
        """The state after the densifier has seen the batch and, when that is due, has changed the Gaussians."""
        densifier = self.growth.densifier
        statistics = densifier.observe(state.statistics, evidence)
        change = densifier.densify(statistics, state.scene, self.growth.context(state.step, self.extent_world))
        state = replace(state, statistics=statistics)
        return state if change is None else state.densified(change, self.optimizer)

    def _with_geometry(self, state: RolloutState) -> RolloutState:
        """The state with footprints and neighbours as the optimizer needs them, renewed when they are due."""
        needs, means = self.optimizer.needs, state.scene.means
        due = self.by_renderings or state.step % GEOMETRY_EVERY == 0
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
        started = self._clock()
        loss = self.scene_loss.value(state.output, self.probe)
        guard = state.guard.look(state.probe_loss, loss)
        guard = replace(guard, seconds=guard.seconds + self._clock() - started)
        probe_step = max(1, math.ceil(PROBE_GROWTH * state.step))
        state = replace(state, probe_loss=loss, probe_step=probe_step, guard=guard)
        return replace(state, best=state.output, best_loss=loss) if loss < state.best_loss else state

    def _warm_up(self) -> None:
        """Load libraries and fill caches outside the measured time; changes nothing else."""
        started, scene = self._clock(), self.state.scene
        batch = self._measured(scene, self.train[:1])
        anew = self._with_geometry(RolloutState.start(scene, self.optimizer))
        self._updated(anew, batch, self.train[:1], scene.sh_degree)
        for view in self.train:
            self.scene_loss.photos([view])  # decoded now, and kept as far as the cache goes
        if self.state.step == 0:
            self.state = replace(self._with_probe(self.state), guard=self.state.guard)  # the scene to beat
        self.state = replace(self.state, seconds_warmup=self.state.seconds_warmup + self._clock() - started)

    def _clock(self) -> float:
        if self.scene_loss.device.type == "cuda":
            torch.cuda.synchronize(self.scene_loss.device)
        return time.perf_counter()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is how torch or Python report that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
