"""The outer loop: estimates of the meta-gradient, weight updates, validation, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from learn2splat import checkpoint
from learn2splat.meta.estimator import Estimator
from learn2splat.meta.listener import TrainingListener
from learn2splat.meta.progress import Progress
from learn2splat.meta.settings import TrainSettings

CHECKPOINT_KIND = "meta-training"
Trainee = TypeVar("Trainee", bound=torch.nn.Module)


class MetaTrainer(Generic[Trainee]):
    """Meta-trains an optimizer, or trains an initialiser.

    Args:
        optimizer: what is trained.
        estimator: of the meta-gradient.
        settings: constants.
        folder: of this training; a folder that holds one is resumed.
        validate: score in dB of what is trained, on scenes of its own; higher is better.
        device: where lives are optimised.
    """

    def __init__(
        self,
        optimizer: Trainee,
        estimator: Estimator[Trainee],
        settings: TrainSettings,
        folder: Path,
        validate: Callable[[Trainee], float],
        device: torch.device | str = "cpu",
    ) -> None:
        self.rank, self.world = _rank_and_world()
        self.optimizer, self.estimator = optimizer.to(device), estimator
        self.settings, self.folder, self.validate = settings, folder, validate
        self.generator = torch.Generator().manual_seed(settings.seed * 1000 + self.rank)
        self.averaged = copy.deepcopy(optimizer).eval()
        self.best = copy.deepcopy(self.averaged.state_dict())
        self.adamw = torch.optim.AdamW(
            optimizer.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.progress = Progress()
        self._checkpoint = folder / f"checkpoint-{self.rank}"
        entries = self._restore() if self._checkpoint.exists() else None
        estimator.open(folder / f"buffer-{self.rank}", entries)

    @property
    def finished(self) -> bool:
        """Whether all meta-steps were taken."""
        return self.progress.meta_step >= self.settings.meta_steps

    def run(self, *, stop: Callable[[], bool] = lambda: False, listener: TrainingListener | None = None) -> Trainee:
        """Train to the end (or until ``stop``), with checkpoints; the averaged optimizer with the best validation.

        A new training begins with the validation of the untrained optimizer.
        """
        listener = listener or TrainingListener()
        listener.on_start(self.progress, self.settings)
        if not self.progress.history:
            self._record({"meta_step": 0} | self._validate(listener), listener)
        saved = time.monotonic()
        while not self.finished and not self._any_process(stop()):
            row = self._meta_step()
            if self.progress.meta_step % self.settings.validate_every == 0:
                row |= self._validate(listener)
            self._record(row, listener)
            if time.monotonic() - saved > self.settings.checkpoint_seconds:
                self.save()
                listener.on_saved()
                saved = time.monotonic()
        self.save()
        listener.on_saved()
        best = copy.deepcopy(self.averaged)
        best.load_state_dict(self.best)
        return best

    def _record(self, row: dict[str, float], listener: TrainingListener) -> None:
        self.progress.history.append(row)
        listener.on_row(row)

    def _meta_step(self) -> dict[str, float]:
        settings, started = self.settings, time.perf_counter()
        self.adamw.zero_grad()
        share = self.progress.meta_step / max(1, settings.meta_steps)
        found = self.estimator.accumulate(self.optimizer, settings.samples, share, self.generator)
        norm = self._update()
        self.progress.meta_step += 1
        return {
            "meta_step": self.progress.meta_step,
            **found,
            "gradient_norm": norm,
            "learning_rate": self.adamw.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }

    def _update(self) -> float:
        """One AdamW step on the mean gradient over all processes, and the averaged weights; the gradient's norm."""
        settings = self.settings
        parameters = [p for p in self.optimizer.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            if self.world > 1:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.world
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
        step = self.progress.meta_step
        warm = min(1.0, (step + 1) / settings.warm_up)
        rate = settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.meta_steps))
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            trained = [p for p in self.averaged.parameters() if p.requires_grad]
            for old, new in zip(trained, parameters, strict=True):
                old.lerp_(new, 1 - decay)
        return norm

    def _validate(self, listener: TrainingListener) -> dict[str, float]:
        listener.on_validation()
        started = time.perf_counter()
        score = self.validate(self.averaged) if self.rank == 0 else 0.0
        if score > self.progress.best_score and self.rank == 0:
            self.progress.best_score = score
            self.best = copy.deepcopy(self.averaged.state_dict())
        return {"score": score, "seconds_validation": time.perf_counter() - started}

    def save(self) -> None:
        """Write everything needed to go on to the same bits."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for prefix, module in (("weights", self.optimizer), ("averaged", self.averaged)):
            tensors |= {f"{prefix}/{name}": t for name, t in module.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.adamw.state_dict()["state"].items():
            tensors |= {f"adamw/{index}/{name}": tensor for name, tensor in state.items()}
        config = {"progress": asdict(self.progress), "entries": self.estimator.entries(), "world": self.world}
        checkpoint.save(self._checkpoint, CHECKPOINT_KIND, tensors, config)
        self.estimator.commit()

    def _restore(self) -> list[int]:
        """Load the checkpoint; the entries of the estimator that belong to it.

        Raises:
            BadCheckpointError: it is damaged, or was written by another training.
        """
        tensors, config = checkpoint.load(self._checkpoint, CHECKPOINT_KIND)

        def under(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        try:
            self.optimizer.load_state_dict(under("weights/"))
            self.averaged.load_state_dict(under("averaged/"))
            self.best = under("best/")
            states: dict[int, dict[str, Any]] = {}
            for name, tensor in under("adamw/").items():
                index, entry = name.split("/")
                states.setdefault(int(index), {})[entry] = tensor
            self.adamw.load_state_dict({"state": states, "param_groups": self.adamw.state_dict()["param_groups"]})
            self.generator.set_state(tensors["generator"])
            self.progress = Progress(**config["progress"])
            return [int(number) for number in config["entries"]]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise checkpoint.BadCheckpointError(
                f"{self._checkpoint}: no checkpoint of this training ({error}); {checkpoint.REMEDY}"
            ) from error

    def _any_process(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process: all of them stop together."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag))
        torch.distributed.all_reduce(flags)
        return bool(flags > 0)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
