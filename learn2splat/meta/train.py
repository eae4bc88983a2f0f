"""The outer loop: lives from a buffer or new, windows, weight updates, validation, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from learn2splat import checkpoint
from learn2splat.data.base import SceneData
from learn2splat.meta.buffer import Buffer
from learn2splat.meta.learner import Windows, roll_out, run_window
from learn2splat.meta.life import Life, begin, from_entry, to_entry
from learn2splat.meta.objective import MetaObjective
from learn2splat.meta.tasks import TaskRanges, draw_task
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import Renderer

CHECKPOINT_KIND = "meta-training"
FIRST_LOG_LIFE = math.log(100)
"""Logarithm of the longest life at the start of training."""


class TrainableOptimizer(SceneOptimizer, Protocol):
    """A `SceneOptimizer` that is a `torch.nn.Module` too."""

    def perturbed(self, generator: torch.Generator) -> SceneOptimizer:
        """A copy with other step sizes, to visit states that the optimizer itself would not."""
        ...


@dataclass(frozen=True)
class TrainSettings:
    """Constants of the outer loop.

    Args:
        meta_steps: updates of the weights.
        lives_per_step: windows whose meta-gradients are averaged.
        lr, weight_decay, clip, warm_up: of AdamW; the rate falls to zero along a cosine.
        ema: decay of the averaged weights, which are what is validated and shipped.
        new_life: how often a window begins a new life although the buffer is full.
        perturbed: how often a new life first runs a while with other step sizes.
        shortest_life, longest_life: steps after which a life ends, log-uniform; the upper end grows from 100, unless
            it is less, over the first ``growth`` of training.
        rollout_share, longest_rollout: frozen steps after a window: up to this share of the steps so far.
        validate_every: meta-steps between two validations.
        checkpoint_seconds: how much work a power cut may cost.
        seed: of all randomness, together with the rank.
    """

    meta_steps: int = 600
    lives_per_step: int = 2
    lr: float = 1.5e-2
    weight_decay: float = 1e-3
    clip: float = 0.5
    warm_up: int = 30
    ema: float = 0.98
    new_life: float = 0.1
    perturbed: float = 0.25
    shortest_life: int = 25
    longest_life: int = 3000
    growth: float = 0.5
    rollout_share: float = 0.6
    longest_rollout: int = 150
    validate_every: int = 100
    checkpoint_seconds: float = 60.0
    seed: int = 0
    windows: Windows = field(default_factory=Windows)
    ranges: TaskRanges = field(default_factory=TaskRanges)


@dataclass
class Progress:
    """What a training has come to.

    Args:
        meta_step: updates of the weights so far.
        best_score: of the best validation, in dB.
        history: one row per meta-step or validation.
    """

    meta_step: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)


class MetaTrainer:
    """Meta-trains an optimizer.

    Args:
        optimizer: a `TrainableOptimizer`.
        objective: judges windows.
        renderer: for all lives.
        scenes: to draw tasks from.
        settings: constants.
        folder: of this training; a folder that holds one is resumed.
        validate: score in dB of an optimizer by full rollouts; higher is better.
    """

    def __init__(
        self,
        optimizer: TrainableOptimizer,
        objective: MetaObjective,
        renderer: Renderer,
        scenes: Sequence[SceneData],
        settings: TrainSettings,
        folder: Path,
        validate: Callable[[SceneOptimizer], float],
    ) -> None:
        assert isinstance(optimizer, torch.nn.Module)
        self.rank, self.world = _rank_and_world()
        self.optimizer, self.objective, self.renderer = optimizer, objective, renderer
        self.scenes, self.settings, self.folder, self.validate = list(scenes), settings, folder, validate
        self.generator = torch.Generator().manual_seed(settings.seed * 1000 + self.rank)
        self.averaged = copy.deepcopy(optimizer).eval()
        self.best = copy.deepcopy(self.averaged.state_dict())
        self.adamw = torch.optim.AdamW(
            optimizer.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.progress = Progress()
        self._checkpoint = folder / f"checkpoint-{self.rank}"
        numbers = self._restore() if self._checkpoint.exists() else []
        self.buffer = Buffer(folder / f"buffer-{self.rank}", longest=settings.longest_life, numbers=numbers)

    def run(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        listen: Callable[[Mapping[str, float]], None] = lambda row: None,
    ) -> SceneOptimizer:
        """Train to the end (or until ``stop``), with checkpoints; the averaged optimizer with the best validation."""
        saved = time.monotonic()
        while self.progress.meta_step < self.settings.meta_steps and not self._any_process(stop()):
            row = self._meta_step()
            if self.progress.meta_step % self.settings.validate_every == 0:
                row |= {"score": self._validate()}
            self.progress.history.append(row)
            listen(row)
            if time.monotonic() - saved > self.settings.checkpoint_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        best = copy.deepcopy(self.averaged)
        best.load_state_dict(self.best)
        return best

    def _meta_step(self) -> dict[str, float]:
        settings, started = self.settings, time.perf_counter()
        assert isinstance(self.optimizer, torch.nn.Module)
        self.optimizer.train()
        self.adamw.zero_grad()
        lives, losses, deaths = [], [], 0
        for _ in range(settings.lives_per_step):
            life = self._life()
            steps = settings.windows.length(life.step)
            result = run_window(life, steps, self.objective, self._integer(2**31))
            if result.loss.requires_grad:
                (result.loss / settings.lives_per_step).backward()
            losses.append(float(result.loss.detach()))
            deaths += result.died
            if not result.died:
                lives.append(life)
        norm = self._update()
        self.optimizer.eval()
        for life in lives:
            longest = min(settings.longest_rollout, int(settings.rollout_share * life.step))
            lived = roll_out(life, self._integer(longest + 1))
            deaths += not lived
            if lived and life.step < life.ends_at:
                self.buffer.insert(to_entry(life))
        self.progress.meta_step += 1
        return {
            "meta_step": self.progress.meta_step,
            "loss": sum(losses) / len(losses),
            "gradient_norm": norm,
            "deaths": deaths,
            "buffer": len(self.buffer),
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

    def _life(self) -> Life:
        settings = self.settings
        full = len(self.buffer) >= self.buffer.capacity
        if not full or self._uniform() < settings.new_life:
            return self._new_life()
        drawn = self.buffer.draw(self.generator)
        if drawn is None:
            return self._new_life()
        number, entry = drawn
        self.buffer.remove(number)
        return from_entry(entry, self.optimizer, self.renderer)

    def _new_life(self) -> Life:
        settings = self.settings
        grown = min(1.0, self.progress.meta_step / max(1, settings.growth * settings.meta_steps))
        low, full = math.log(settings.shortest_life), math.log(settings.longest_life)
        high = min(FIRST_LOG_LIFE, full) + grown * max(0.0, full - FIRST_LOG_LIFE)
        while True:
            ends_at = round(math.exp(low + (high - low) * self._uniform()))
            task = draw_task(self.scenes[self._integer(len(self.scenes))], settings.ranges, self.generator)
            life = begin(task, self.optimizer, self.renderer, ends_at)
            if self._uniform() >= settings.perturbed:
                return life
            life.rollout.optimizer = self.optimizer.perturbed(self.generator)
            lived = roll_out(life, round(math.exp(math.log(max(2, ends_at)) * self._uniform())))
            life.rollout.optimizer = self.optimizer
            if lived:
                return life

    def _validate(self) -> float:
        score = self.validate(self.averaged) if self.rank == 0 else 0.0
        if score > self.progress.best_score and self.rank == 0:
            self.progress.best_score = score
            self.best = copy.deepcopy(self.averaged.state_dict())
        return score

    def save(self) -> None:
        """Write everything needed to go on to the same bits."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for prefix, module in (("weights", self.optimizer), ("averaged", self.averaged)):
            tensors |= {f"{prefix}/{name}": t for name, t in module.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.adamw.state_dict()["state"].items():
            tensors |= {f"adamw/{index}/{name}": tensor for name, tensor in state.items()}
        config = {"progress": asdict(self.progress), "buffer": sorted(self.buffer.steps), "world": self.world}
        checkpoint.save(self._checkpoint, CHECKPOINT_KIND, tensors, config)
        self.buffer.commit()

    def _restore(self) -> list[int]:
        """Load the checkpoint; the numbers of the buffer's entries."""
        tensors, config = checkpoint.load(self._checkpoint, CHECKPOINT_KIND)

        def under(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        assert isinstance(self.optimizer, torch.nn.Module)
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
        return [int(number) for number in config["buffer"]]

    def _any_process(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process: all of them stop together."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag))
        torch.distributed.all_reduce(flags)
        return bool(flags > 0)

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def _integer(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self.generator))


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
