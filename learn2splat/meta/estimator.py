"""What fills the gradients of a learned optimizer's weights: a seam between the outer loop and its ways to estimate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import torch

from learn2splat.data.base import SceneData
from learn2splat.meta.tasks import Task, TaskRanges, draw_task
from learn2splat.optim.base import SceneOptimizer


class TrainableOptimizer(SceneOptimizer, Protocol):
    """A `SceneOptimizer` that is a `torch.nn.Module` too."""

    def perturbed(self, generator: torch.Generator) -> SceneOptimizer:
        """A copy with other step sizes, to visit states that the optimizer itself would not."""
        ...


class TaskSource:
    """Draws training tasks.

    Args:
        scenes: to draw from.
        ranges: of the variation.
        shares: how often each scene is drawn, relative to the others; equally often when empty.
    """

    def __init__(self, scenes: Sequence[SceneData], ranges: TaskRanges, shares: Sequence[float] = ()) -> None:
        self.scenes, self.ranges = scenes, ranges
        self.shares = torch.tensor(list(shares) or [1.0] * len(scenes))

    def draw(self, generator: torch.Generator) -> Task:
        """The next task."""
        chosen = int(torch.multinomial(self.shares, 1, generator=generator))
        return draw_task(self.scenes[chosen], self.ranges, generator)


class Estimator(Protocol):
    """Estimates how a meta-loss depends on the weights."""

    def open(self, folder: Path, entries: Collection[int] | None) -> None:
        """Take up ``folder`` (one per process) with the ``entries`` of the last checkpoint, None for a new training."""
        ...

    def accumulate(
        self, optimizer: TrainableOptimizer, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        """Add the mean estimate of ``samples`` to the gradients of ``optimizer``; what to report.

        Args:
            optimizer: a `torch.nn.Module`.
            samples: windows or pairs.
            progress: share of the training that is done.
            generator: source of all randomness.
        """
        ...

    def entries(self) -> list[int]:
        """What belongs into a checkpoint."""
        ...

    def commit(self) -> None:
        """The checkpoint is written: what it does not list may go."""
        ...
