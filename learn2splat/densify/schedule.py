"""When a run densifies, scaled to its number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from learn2splat.densify.base import STANDARD_STEPS

SHORTEST = 10
"""Least number of steps between two refinements: fewer do not tell which Gaussians need company."""
SPARSER_BELOW = STANDARD_STEPS // 2
"""Runs shorter than this refine more often, so that they have time to grow."""


@dataclass(frozen=True)
class Refinements:
    """Every ``every`` steps, after ``start`` and before ``stop``, as stated for a run of `STANDARD_STEPS`.

    In a shorter run the stop keeps its share of the run, the start comes after 5 % of it at the latest, and the
    interval shrinks in proportion below `SPARSER_BELOW` steps, down to `SHORTEST`.

    Args:
        start, every, stop: in steps of a standard run.
    """

    start: int = 500
    every: int = 100
    stop: int = 15_000

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop or self.every < 1:
            raise ValueError(f"{self}: give 0 <= start <= stop and every >= 1")

    def ends(self, steps: int) -> int:
        """The step at which a run of ``steps`` stops to densify."""
        return min(self.stop, self.stop * steps // STANDARD_STEPS)

    def due(self, step: int, steps: int) -> bool:
        """Whether a run of ``steps`` refines after update number ``step``."""
        every = min(self.every, max(SHORTEST, self.every * steps // SPARSER_BELOW))
        return min(self.start, steps // 20) < step < self.ends(steps) and step % every == 0
