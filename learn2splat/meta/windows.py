"""Meta-gradients from windows of differentiable steps, on lives from a buffer or new ones."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch

from learn2splat.meta.buffer import Buffer
from learn2splat.meta.estimator import TaskSource, TrainableOptimizer
from learn2splat.meta.learner import Windows, roll_out, run_window
from learn2splat.meta.life import Life, begin, from_entry, to_entry
from learn2splat.meta.objective import MetaObjective
from learn2splat.meta.tasks import Task
from learn2splat.render.base import Renderer

FIRST_LOG_LIFE = math.log(100)
"""Logarithm of the longest life at the start of training."""


@dataclass(frozen=True)
class LifeSettings:
    """How long lives are and how one goes on.

    Args:
        new_life: how often a window begins a new life although the buffer is full.
        perturbed: how often a new life first runs a while with other step sizes.
        shortest_life, longest_life: steps after which a life ends, log-uniform; the upper end grows from 100, unless
            it is less, over the first ``growth`` of training.
        rollout_share, longest_rollout: frozen steps after a window: up to this share of the steps so far.
        delayed: share of the meta-loss that is measured after those steps.
        windows: how many steps are unrolled.
    """

    new_life: float = 0.1
    perturbed: float = 0.25
    shortest_life: int = 25
    longest_life: int = 3000
    growth: float = 0.5
    rollout_share: float = 0.6
    longest_rollout: int = 150
    delayed: float = 0.5
    windows: Windows = field(default_factory=Windows)


class WindowEstimator:
    """First-order credit within windows (see `learn2splat.meta.objective`).

    Args:
        tasks: for new lives.
        renderer: for all lives.
        objective: judges windows.
        settings: constants.
        device: where to optimise.
    """

    def __init__(
        self,
        tasks: TaskSource[Task],
        renderer: Renderer,
        objective: MetaObjective,
        settings: LifeSettings = LifeSettings(),
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.tasks, self.renderer, self.objective, self.settings = tasks, renderer, objective, settings

    def open(self, folder: Path, entries: Collection[int] | None) -> None:
        self.buffer = Buffer(folder, longest=self.settings.longest_life, numbers=entries or [])

    def entries(self) -> list[int]:
        return sorted(self.buffer.steps)

    def commit(self) -> None:
        self.buffer.commit()

    def accumulate(
        self, optimizer: TrainableOptimizer, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        assert isinstance(optimizer, torch.nn.Module)
        settings = self.settings
        optimizer.train()
        losses, deaths = [], 0
        for _ in range(samples):
            life = self._life(optimizer, progress, generator)
            steps = settings.windows.length(life.step)
            longest = min(settings.longest_rollout, int(settings.rollout_share * (life.step + steps)))
            ahead = _integer(longest + 1, generator)
            result = run_window(life, steps, ahead, self.objective, settings.delayed, _integer(2**31, generator))
            if result.loss.requires_grad:
                (result.loss / samples).backward()
            losses.append(float(result.loss.detach()))
            deaths += result.died
            if not result.died and life.step < life.ends_at:
                self.buffer.insert(to_entry(life))
        optimizer.eval()
        return {"loss": sum(losses) / len(losses), "deaths": deaths, "buffer": len(self.buffer)}

    def _life(self, optimizer: TrainableOptimizer, progress: float, generator: torch.Generator) -> Life:
        full = len(self.buffer) >= self.buffer.capacity
        if not full or _uniform(generator) < self.settings.new_life:
            return self._new_life(optimizer, progress, generator)
        drawn = self.buffer.draw(generator)
        if drawn is None:
            return self._new_life(optimizer, progress, generator)
        number, entry = drawn
        self.buffer.remove(number)
        return from_entry(entry, optimizer, self.renderer, self.device)

    def _new_life(self, optimizer: TrainableOptimizer, progress: float, generator: torch.Generator) -> Life:
        settings = self.settings
        grown = min(1.0, progress / settings.growth) if settings.growth > 0 else 1.0
        low, full = math.log(settings.shortest_life), math.log(settings.longest_life)
        high = min(FIRST_LOG_LIFE, full) + grown * max(0.0, full - FIRST_LOG_LIFE)
        while True:
            ends_at = round(math.exp(low + (high - low) * _uniform(generator)))
            life = begin(self.tasks.draw(generator), optimizer, self.renderer, ends_at, self.device)
            if _uniform(generator) >= settings.perturbed:
                return life
            life.rollout.optimizer = optimizer.perturbed(generator)
            lived = roll_out(life, round(math.exp(math.log(max(2, ends_at)) * _uniform(generator))))
            life.rollout.optimizer = optimizer
            if lived:
                return life


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _integer(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))
