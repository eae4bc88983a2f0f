"""What fills the gradients of the weights in training: a seam between the outer loop and its ways to estimate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from learn2splat.data.base import SceneData
from learn2splat.optim.base import SceneOptimizer

Drawn = TypeVar("Drawn", covariant=True)
Trainee = TypeVar("Trainee", contravariant=True)


class TrainableOptimizer(SceneOptimizer, Protocol):
    """A `SceneOptimizer` that is a `torch.nn.Module` too."""

    def perturbed(self, generator: torch.Generator) -> SceneOptimizer:
        """A copy with other step sizes, to visit states that the optimizer itself would not."""
        ...


class Ranges(Protocol[Drawn]):
    """What training tasks vary in."""

    def draw(self, scene: SceneData, generator: torch.Generator) -> Drawn:
        """A random task on ``scene``, of which all views may be used: it is a training scene."""
        ...


class TaskSource(Generic[Drawn]):
    """Draws training tasks.

    Args:
        scenes: to draw from.
        ranges: of the variation.
        shares: how often each scene is drawn, relative to the others; equally often when empty.
    """

    def __init__(self, scenes: Sequence[SceneData], ranges: Ranges[Drawn], shares: Sequence[float] = ()) -> None:
        self.scenes, self.ranges = scenes, ranges
        self.shares = torch.tensor(list(shares) or [1.0] * len(scenes))

    def draw(self, generator: torch.Generator) -> Drawn:
        """The next task."""
        chosen = int(torch.multinomial(self.shares, 1, generator=generator))
        return self.ranges.draw(self.scenes[chosen], generator)


class Estimator(Protocol[Trainee]):
    """Estimates how a loss depends on the weights."""

    def open(self, folder: Path, entries: Collection[int] | None) -> None:
        """Take up ``folder`` (one per process) with the ``entries`` of the last checkpoint, None for a new training."""
        ...

    def accumulate(
        self, trainee: Trainee, /, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        """Add the mean estimate of ``samples`` to the gradients of ``trainee``; what to report.

        Args:
            trainee: a `torch.nn.Module`.
            samples: windows, pairs or scenes.
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


class Memoryless:
    """The part of an `Estimator` that keeps nothing from one estimate to the next."""

    def open(self, folder: Path, entries: Collection[int] | None) -> None:
        pass

    def entries(self) -> list[int]:
        return []

    def commit(self) -> None:
        pass
