"""What a meta-training has come to, and what one reads from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from learn2splat.meta.settings import TrainSettings


@dataclass
class Progress:
    """What a training has come to.

    Args:
        meta_step: updates of the weights so far.
        best_score: of the best validation, in dB.
        history: one row per meta-step or validation; the first validates the untrained optimizer.
    """

    meta_step: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = [value for row in self.history for value in (row["meta_step"], *row.values())]
        if not all(isinstance(value, int | float) for value in (self.meta_step, self.best_score, *rows)):
            raise ValueError("the progress of a training is told in numbers")

    def column(self, name: str, last: int = 0) -> tuple[list[float], list[float]]:
        """The meta-steps of the rows that have ``name``, and their values; with ``last``, of that many rows only."""
        rows = [row for row in self.history[-last:] if name in row]
        return [row["meta_step"] for row in rows], [row[name] for row in rows]

    @property
    def base_score(self) -> float | None:
        """Score of the untrained optimizer in dB, once it is known."""
        return self.history[0].get("score") if self.history else None

    @property
    def best(self) -> Mapping[str, float] | None:
        """The row of the best validation."""
        rows = [row for row in self.history if "score" in row and math.isfinite(row["score"])]
        return max(rows, key=lambda row: row["score"], default=None)

    @property
    def seconds(self) -> float:
        """Time of all meta-steps and validations."""
        return sum(row.get("seconds", 0.0) + row.get("seconds_validation", 0.0) for row in self.history)

    def seconds_left(self, settings: TrainSettings) -> float | None:
        """Time that the meta-steps and validations to come will take, once there is something to judge by."""
        steps, validations = self.column("seconds", last=200)[1], self.column("seconds_validation")[1]
        if not steps:
            return None
        left = settings.meta_steps // settings.validate_every - self.meta_step // settings.validate_every
        return (settings.meta_steps - self.meta_step) * _mean(steps) + left * _mean(validations)


def smoothed(values: Iterable[float], decay: float = 0.95) -> list[float]:
    """Exponential moving averages of ``values``, unbiased at the start; what is not finite is left out."""
    total = weight = 0.0
    means = []
    for value in values:
        if math.isfinite(value):
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        means.append(total / weight if weight else math.nan)
    return means


def clock(seconds: float) -> str:
    """A duration as people read it, for example 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
