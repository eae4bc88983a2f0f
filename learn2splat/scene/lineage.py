"""How the rows of a new scene descend from the rows of the old one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lineage:
    """Row i of the new scene descends from row ``parent[i]`` of the old one.

    Args:
        parent: [M] int64, rows of the old scene.
        fresh: [M] bool, newborn rows, whose statistics start anew.
        restarted: names of parameters whose statistics start anew in all rows.
    """

    parent: Tensor
    fresh: Tensor
    restarted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.parent.shape != self.fresh.shape or self.parent.ndim != 1:
            raise ValueError(
                f"Lineage: parent {tuple(self.parent.shape)} and fresh {tuple(self.fresh.shape)} must be one [M]"
            )

    @classmethod
    def identity(cls, count: int, device: torch.device | str = "cpu") -> Lineage:
        """``count`` rows that stay what they are."""
        return cls(torch.arange(count, device=device), torch.zeros(count, dtype=torch.bool, device=device))

    def __len__(self) -> int:
        return self.parent.shape[0]

    def is_identity(self, count: int) -> bool:
        """Whether ``count`` old rows stay what they are, with all their statistics."""
        stays = len(self) == count and torch.equal(self.parent, torch.arange(count, device=self.parent.device))
        return stays and not bool(self.fresh.any()) and not self.restarted

    def take(self, rows: Tensor, fresh_value: float | int | None = 0) -> Tensor:
        """Rows of the new scene from ``rows`` [N, ...] of the old one.

        Args:
            rows: [N, ...] one row per old Gaussian.
            fresh_value: what fresh rows are filled with; None keeps the parent's value (inheritance).
        """
        taken = rows[self.parent]
        if fresh_value is not None:
            taken[self.fresh] = fresh_value
        return taken

    def then(self, later: Lineage) -> Lineage:
        """One lineage for this one followed by ``later``."""
        return Lineage(
            self.parent[later.parent], self.fresh[later.parent] | later.fresh, self.restarted | later.restarted
        )
