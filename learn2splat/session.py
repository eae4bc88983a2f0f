"""One run from its configuration: compose the parts, run the inner loop, evaluate, write the files."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from learn2splat.config import BadConfigError, build
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.data.views import choose_views, probe_views
from learn2splat.densify.base import MAX_GAUSSIANS, Growth, NoDensifier
from learn2splat.estimate import MEASURED_STEPS, Estimate, estimate
from learn2splat.eval.metrics import ViewMetrics, evaluate, means
from learn2splat.eval.report import write_report
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import BackendMissingError
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import Outcome, RolloutState, StepRecord
from learn2splat.run_folder import RunFolder, machine
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.ply import write_ply
from learn2splat.scene_loss import SceneLoss
from learn2splat.start import start_scene

PROBED_STEPS = 500
"""Runs of fewer steps rarely over-fit: there views that are not optimised on cost more than they save."""


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
            config.guard = "on" if config.steps >= PROBED_STEPS else "lean"
        self.config, self.folder, self.resumed = config, folder, resume
        if data is None:
            data = load_scene(config.scene, max_size=config.max_size, test_every=config.test_every)
        self.data = data
        self.train, self.test = choose_views(data, str(config.views), config.seed)
        self.probe: list[int] = []
        if config.guard == "on":
            self.train, self.probe = probe_views(data.cameras, self.train)
        device = _device(config.device)
        renderer = build(config.renderer)
        if device.type not in renderer.capabilities.devices:
            raise BackendMissingError(
                f"the renderer {type(renderer).__name__} runs on {'/'.join(renderer.capabilities.devices)}, "
                f"not on {device.type}; leave out --renderer or --device"
            )
        background = torch.tensor(list(config.background), dtype=torch.float32)
        self.scene_loss = SceneLoss(data, renderer, build(config.loss), background, device)
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
        if resume:
            assert folder is not None
            state = folder.load_checkpoint(sampler, device)
        else:
            scene = start_scene(
                data,
                self.train,
                str(config.init),
                sh_degree=config.sh_degree,
                random_count=config.init_gaussians,
                max_gaussians=config.max_gaussians,
                seed=config.seed,
            )
            state = RolloutState.start(scene.to(device), optimizer, config.average, densifier)
        guarded = config.guard != "off"
        self.rollout = Rollout(
            self.scene_loss, self.train, optimizer, sampler, state, horizon, self.probe, guarded, growth
        )
        self.metrics = folder.read_metrics(state.step) if folder is not None and resume else []
        self.records: list[StepRecord] = []
        self._evaluated: tuple[GaussianScene, list[ViewMetrics]] | None = None

    def run(self, listener: Listener, stop: Callable[[], bool]) -> Result:
        """Run to the end, evaluating on the way and writing files when there is a folder."""
        for view in (*self.train, *self.probe, *self.test):
            self.data.photos[view]  # one that cannot be decoded is bad input: known before a folder is made
        if self.folder is not None:
            (self.folder.write_config if self.resumed else self.folder.create)(self.config)
        try:
            return self._run(listener, stop)
        except BaseException:
            listener.on_abort()
            raise

    def _run(self, listener: Listener, stop: Callable[[], bool]) -> Result:
        listener.on_start(self)
        last_saved = time.monotonic()
        evaluate_at = set(self.config.eval_at)
        if self.rollout.state.step == 0 and 0 in evaluate_at and not self.metrics:
            self._evaluate(listener)
        budget = math.inf if self.config.time_budget is None else float(self.config.time_budget)
        for record in self.rollout.run(self.config.steps, time_budget=budget, stop=stop):
            self.records.append(record)
            listener.on_step(record)
            if len(self.records) == MEASURED_STEPS and self.config.steps >= self.config.estimate_from:
                listener.on_estimate(self._estimate())
            if record.step in evaluate_at:
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
        return estimate(state, self.records, self.config.steps, most, peak_memory_mb())

    def _rendered(self, scene: GaussianScene) -> list[ViewMetrics]:
        """The evaluated views of ``scene``; asked twice for the same one, it is rendered once."""
        if self._evaluated is None or self._evaluated[0] is not scene:
            self._evaluated = (scene, evaluate(scene, self.scene_loss, self.test or self.train))
        return self._evaluated[1]

    def _evaluate(self, listener: Listener) -> None:
        state, split = self.rollout.state, "test" if self.test else "train"
        psnr, ssim = means(self._rendered(self.rollout.outcome().scene))
        row = {
            "step": state.step,
            "split": split,
            "psnr": psnr,
            "ssim": ssim,
            "loss": state.running_loss,
            "seconds": state.seconds,
            "seconds_render": state.seconds_render,
            "seconds_update": state.seconds_update,
            "seconds_guard": state.guard.seconds,
            "guard_actions": state.guard.actions,
            "gaussians": len(state.scene),
            "peak_memory_mb": peak_memory_mb(),
        }
        self.metrics.append(row)
        if self.folder is not None:
            self.folder.write_metrics(self.metrics)
        listener.on_metrics(row)

    def _write(self, folder: RunFolder, outcome: Outcome) -> None:
        folder.save_checkpoint(self.rollout.state, self.rollout.sampler)
        write_ply(outcome.scene, folder.ply)
        views = self._rendered(outcome.scene)
        pairs = {
            str(self.data.image_names[view.view]): (self.scene_loss.photos([view.view])[0].cpu(), view)
            for view in views
        }
        folder.write_pictures({name: torch.cat([photo, view.image], dim=1) for name, (photo, view) in pairs.items()})
        state = self.rollout.state
        summary = {
            "outcome": outcome.kind.value,
            "message": outcome.message,
            "scene": str(self.config.scene),
            "written_scene": outcome.which,
            "steps": outcome.steps,
            "views": {"train": len(self.train), "probe": len(self.probe), "test": len(self.test)},
            "gaussians": len(outcome.scene),
            "last": self.metrics[-1],
            "best": max(self.metrics, key=lambda row: row["psnr"]),
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
            "warnings": list(self.data.warnings),
            "machine": machine(),
        }
        write_report(folder.report, summary, self.metrics, pairs, OmegaConf.to_yaml(self.config, resolve=True))
        folder.write_summary(summary)


def peak_memory_mb() -> float:
    """Peak resident memory of this process, or peak allocated CUDA memory, in MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendMissingError("device=cuda: this torch sees no CUDA device; use --device cpu, or see `l2s doctor`")
    return torch.device(name)
