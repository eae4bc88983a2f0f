"""One run from its configuration: compose the parts, run the inner loop, evaluate, write the files."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from learn2splat.camera_paths import sized, tour
from learn2splat.capture import Capture
from learn2splat.config import BadConfigError, build
from learn2splat.data.base import EncodedPhotos, SceneData
from learn2splat.data.cache import fit_cache
from learn2splat.densify.base import MAX_GAUSSIANS, Growth, NoDensifier
from learn2splat.estimate import ESTIMATED_AT, Estimate, estimate, fixed_seconds, step_bytes
from learn2splat.eval.metrics import Scores, means
from learn2splat.eval.report import figure, write_report
from learn2splat.files import shareable, shareable_paths
from learn2splat.memory import MemoryLimit, machine_memory_mb, peak_memory_mb
from learn2splat.optim.base import SceneOptimizer, to_device
from learn2splat.predict.base import Prediction
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import Outcome, RolloutState, StepRecord
from learn2splat.run_folder import RunFolder, machine, shareable_yaml
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.ply import write_ply
from learn2splat.scene.rig import geometric_findings
from learn2splat.start import start_prediction
from learn2splat.uncertainty import OFF, chosen_proximal
from learn2splat.video import mp4

PROBED_STEPS = 500
"""Runs of fewer steps rarely over-fit: there views that are not optimised on cost more than they save."""
FILM_PX, FILM_FRAMES, FILM_FPS, FILM_QUALITY = 480, 72, 24, 26
"""The film of a report: a few seconds, some hundred kB."""


@dataclass(frozen=True)
class Result:
    """What `optimize` returns.

    Args:
        scene: the scene to keep (see `Outcome`).
        outcome: how the run ended.
        records: one per step of this call.
        metrics: one row per evaluation, as in ``metrics.jsonl``.
        folder: where the files are, or None.
    """

    scene: GaussianScene
    outcome: Outcome
    records: list[StepRecord]
    metrics: list[dict[str, Any]]
    folder: Path | None


class Listener:
    """Hears of a run while it goes on; every method may be overridden."""

    def on_start(self, session: Session) -> None:
        """The run is about to take its first step."""

    def on_step(self, record: StepRecord) -> None:
        """A step was taken."""

    def on_estimate(self, estimate: Estimate) -> None:
        """A long run has taken its first steps."""

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        """The scene was evaluated."""

    def on_end(self, result: Result) -> None:
        """The run is over and its files are written."""

    def on_abort(self) -> None:
        """The run ends with an exception."""


class Session:
    """One run, composed from its configuration.

    Args:
        config: as composed from ``configs/optimize.yaml``.
        data: the scene, when it is loaded already.
        optimizer: instead of ``config.optimizer``.
        folder: where to write, or None.
        resume: restore the run of ``folder``.
    """

    def __init__(
        self,
        config: DictConfig,
        *,
        data: SceneData | None = None,
        optimizer: SceneOptimizer | None = None,
        folder: RunFolder | None = None,
        resume: bool = False,
    ) -> None:
        config = config.copy()
        if config.guard == "auto":  # settled here, so that a resumed run with more steps keeps its views
            config.guard = "on" if config.steps is None or config.steps >= PROBED_STEPS else "lean"
        self.config, self.folder, self.resumed = config, folder, resume
        self.steps = sys.maxsize if config.steps is None else int(config.steps)
        self.time_budget = math.inf if config.time_budget is None else float(config.time_budget)
        self.max_memory_mb = float(config.max_memory or machine_memory_mb())
        fit_cache(self.max_memory_mb)
        self.capture = capture = Capture(config, data)
        self.data = data = capture.data
        self.train, self.probe, self.test = capture.train, capture.probe, capture.test
        self.scene_loss, device = capture.loss, capture.device
        optimizer = optimizer or build(config.optimizer)
        if not hasattr(optimizer, "update"):
            raise BadConfigError(
                f"{type(optimizer).__name__} is no optimizer; see configs/optimizer for those there are"
            )
        densifier = build(config.densify)
        if not hasattr(densifier, "densify"):
            raise BadConfigError(f"{type(densifier).__name__} is no densifier; see configs/densify for those there are")
        horizon = None if config.time_budget is not None else config.steps
        growth = Growth(
            densifier, horizon, config.max_gaussians or MAX_GAUSSIANS, seed=config.seed, sh_every=config.sh_every
        )
        sampler = build(
            config.sampler, cameras=data.cameras, views=self.train, batch=config.batch_views, seed=config.seed
        )
        initial = None if resume and config.uncertainty == OFF else self._initial(device)
        if resume:
            assert folder is not None
            state = folder.load_checkpoint(sampler, device)
        else:
            assert initial is not None
            features = None if initial.features is None else initial.features.to(device)
            to_device(optimizer, device)
            state = RolloutState.start(initial.scene, optimizer, config.average, densifier, features)
        proximal = None
        if initial is not None:
            proximal = chosen_proximal(config.uncertainty, str(config.init), self.scene_loss, initial.scene, self.train)
        guarded = config.guard != "off"
        self.rollout = Rollout(
            self.scene_loss, self.train, optimizer, sampler, state, horizon, self.probe, guarded, growth, proximal
        )
        self.metrics: list[dict[str, Any]] = []
        if folder is not None and resume:
            self.metrics = self._due(folder.read_metrics(state.step))
        self.records: list[StepRecord] = []
        self.warnings = [*data.warnings, *map(str, geometric_findings(data))]
        self.interventions: list[str] = []  # what a person changed while it ran
        self._evaluated: tuple[GaussianScene, dict[int, Scores]] | None = None

    def _initial(self, device: torch.device) -> Prediction:
        """Where the run starts; a resumed run with uncertainty needs it again, and finds the same."""
        config = self.config
        found = start_prediction(
            self.data,
            self.train,
            str(config.init),
            sh_degree=config.sh_degree,
            random_count=config.init_gaussians,
            max_gaussians=config.max_gaussians,
            seed=config.seed,
            scene_loss=self.scene_loss,
        )
        return replace(found, scene=found.scene.to(device))

    def run(self, listener: Listener, stop: Callable[[], bool]) -> Result:
        """Run to the end, evaluating on the way and writing files when there is a folder."""
        photos, self.memory = self.data.photos, MemoryLimit(self.max_memory_mb, stop)
        to_decode = photos.bytes_to_come if isinstance(photos, EncodedPhotos) else 0
        self.memory.require((step_bytes(self.rollout.state) + to_decode) / 2**20)
        for view in (*self.train, *self.probe, *self.test):
            self.scene_loss.photos([view])  # one that cannot be decoded is bad input: known before a folder is made
        if self.folder is not None:
            (self.folder.write_config if self.resumed else self.folder.create)(self.config)
        try:
            return self._run(listener)
        except BaseException:
            listener.on_abort()
            raise

    def _run(self, listener: Listener) -> Result:
        listener.on_start(self)
        last_saved = time.monotonic()
        if self.rollout.state.step == 0 and 0 in self.config.eval_at and not self.metrics:
            self._evaluate(listener)
        after = self.rollout.state.seconds
        for record in self.rollout.run(self.steps, time_budget=self.time_budget, stop=self.memory):
            self.records.append(record)
            listener.on_step(record)
            if len(self.records) == ESTIMATED_AT and self.steps >= self.config.estimate_from:
                listener.on_estimate(self._estimate())
            before, after = after, self.rollout.state.seconds
            if self._is_due(record.step, before, after):
                self._evaluate(listener)
            if self.folder is not None and time.monotonic() - last_saved > self.config.checkpoint_seconds:
                self.folder.save_checkpoint(self.rollout.state, self.rollout.sampler)
                last_saved = time.monotonic()
        outcome = self.rollout.outcome()
        if not self.metrics or self.metrics[-1]["step"] != outcome.steps:
            self._evaluate(listener)
        if self.folder is not None:
            self._write(self.folder, outcome)
        folder = None if self.folder is None else self.folder.path
        result = Result(outcome.scene, outcome, self.records, self.metrics, folder)
        listener.on_end(result)
        return result

    def _estimate(self) -> Estimate:
        state, growth = self.rollout.state, self.rollout.growth
        most = len(state.scene) if isinstance(growth.densifier, NoDensifier) else growth.max_gaussians
        fixed = fixed_seconds(self.rollout)
        return estimate(state, self.records, self.steps, most, peak_memory_mb(), self.time_budget, fixed)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in 0..1: of its steps or of its time budget, whichever ends it first."""
        state = self.rollout.state
        return min(1.0, max(state.step / max(1, self.steps), state.seconds / self.time_budget))

    def _is_due(self, step: int, before: float, after: float) -> bool:
        """Whether to evaluate after ``step``, which took from ``before`` to ``after`` in seconds of optimisation."""
        return step in self.config.eval_at or any(before < at <= after for at in self.config.eval_seconds)

    def _due(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """``rows`` without that of where a run was cut: an undisturbed run has none."""
        starts = [0.0, *(row["seconds"] for row in rows)]
        return [
            row for row, before in zip(rows, starts, strict=False) if self._is_due(row["step"], before, row["seconds"])
        ]

    def _scores(self, scene: GaussianScene) -> dict[int, Scores]:
        """Evaluated view -> metrics of ``scene``; asked twice for the same one, it is evaluated once."""
        if self._evaluated is None or self._evaluated[0] is not scene:
            found = {view.view: view.scores for view in self.capture.evaluate(scene)}
            self._evaluated = (scene, found)
        return self._evaluated[1]

    def _evaluate(self, listener: Listener) -> None:
        state, scene = self.rollout.state, self.rollout.outcome().scene
        row = {
            "step": state.step,
            "split": self.capture.split,
            **means([*self._scores(scene).values()]),
            "loss": state.running_loss,
            "seconds": state.seconds,
            "seconds_render": state.seconds_render,
            "seconds_update": state.seconds_update,
            "seconds_guard": state.guard.seconds,
            "guard_actions": state.guard.actions,
            "gaussians": len(scene),
            "peak_memory_mb": peak_memory_mb(),
        }
        self.metrics.append(row)
        if self.folder is not None:
            self.folder.write_metrics(self.metrics)
        listener.on_metrics(row)

    def _write(self, folder: RunFolder, outcome: Outcome) -> None:
        folder.save_checkpoint(self.rollout.state, self.rollout.sampler)
        write_ply(outcome.scene, folder.ply)
        figures = self._write_pictures(folder, outcome.scene)
        state = self.rollout.state
        summary = {
            "outcome": outcome.kind.value,
            "message": outcome.message,
            "scene": shareable_paths(str(self.config.scene)),
            "written_scene": outcome.which,
            "steps": outcome.steps,
            "views": {"train": len(self.train), "probe": len(self.probe), "test": len(self.test)},
            "gaussians": len(outcome.scene),
            "last": self.metrics[-1],
            "best": max(self.metrics, key=lambda row: row["psnr"]),
            "peak_memory_mb": peak_memory_mb(),
            "max_memory_mb": self.memory.limit_mb,
            "seconds": state.seconds,
            "seconds_render": state.seconds_render,
            "seconds_update": state.seconds_update,
            "seconds_warmup": state.seconds_warmup,
            "guard": {
                "mode": self.config.guard,
                "actions": state.guard.actions,
                "base_steps": state.guard.base_steps,
                "seconds": state.guard.seconds,
            },
            "warnings": [*self.warnings, *self.interventions],
            "notes": self.capture.notes,
            "machine": machine(),
        }
        path = sized(tour(self.data.cameras, FILM_FRAMES), FILM_PX)
        film = mp4(self.capture.film(outcome.scene, path), fps=FILM_FPS, quality=FILM_QUALITY)
        config = shareable_yaml(self.config)
        write_report(folder.report, shareable(summary), self.metrics, figures, outcome.scene, film, config)
        folder.write_summary(summary)

    def _write_pictures(self, folder: RunFolder, scene: GaussianScene) -> list[dict[str, Any]]:
        """Write photo and rendering of each evaluated view, one at a time; the figures of the report."""
        scores, figures = self._scores(scene), list[dict[str, Any]]()

        def pictures() -> Iterator[Tensor]:
            for view, found in scores.items():
                shown = self.capture.explained(scene, view, found)
                figures.append(figure(shown, len(scores)))
                yield torch.cat([shown.photo, shown.image], dim=1)

        folder.write_pictures([self.capture.name(view) for view in scores], pictures())
        return figures
