"""Gradients without their unit, for networks that see and change numbers of order 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHARP = 30.0
"""Slopes that are so many times smaller than is typical are still told apart."""
TINY = 1e-20


class Descent(nn.Module):
    """Lets a network with a state per Gaussian see slopes, and step against them as far as the state says.

    Untrained its steps are zero; with gradients of zero they are, too, and nothing is seen.

    Args:
        width: of the state.
        groups: how many columns of a gradient each group of parameters has.
    """

    def __init__(self, width: int, groups: Sequence[int]) -> None:
        super().__init__()
        self.groups = list(groups)
        self.read = nn.Linear(sum(self.groups) + len(self.groups), width, bias=False)
        self.norm, self.lengths = nn.LayerNorm(width), nn.Linear(width, len(self.groups))
        nn.init.zeros_(self.lengths.weight)
        nn.init.zeros_(self.lengths.bias)

    def seen(self, uphill: Tensor, steepness: Tensor) -> Tensor:
        """[N, width] what `slopes` tell, to be added to the state."""
        found: Tensor = self.read(torch.cat([uphill, steepness], dim=1))
        return found

    def step(self, uphill: Tensor, state: Tensor) -> Tensor:
        """[N, columns] downhill, each group by a length of its own that ``state`` [N, width] decides."""
        lengths = self.lengths(self.norm(state)).split(1, dim=1)
        parts = uphill.split(self.groups, dim=1)
        return torch.cat([-part * length for part, length in zip(parts, lengths, strict=True)], dim=1)


def slopes(gradient: Tensor, groups: Sequence[int], visible: Tensor) -> tuple[Tensor, Tensor]:
    """Where the loss rises and how steeply, whatever it is multiplied by: of order 1, and zero where the gradient is.

    Args:
        gradient: [N, columns].
        groups: columns of each group of parameters.
        visible: [N] bool, the Gaussians whose root mean square is what is typical of a group.

    Returns:
        [N, columns], the direction of each group's gradient with the steepness as length, and the latter [N, groups]:
        the logarithm of 1 + SHARP times the length of the gradient over the typical one, 1 where they are equal.
    """
    uphill, steepness = [], []
    for part in gradient.split(list(groups), dim=1):
        length = part.norm(dim=1, keepdim=True)
        mean_square = (length.square() * visible[:, None]).sum() / visible.sum().clamp_min(1)
        relative = length / mean_square.sqrt().clamp_min(TINY)
        steepness.append(torch.log1p(SHARP * relative) / math.log1p(SHARP))
        uphill.append(part / length.clamp_min(TINY) * steepness[-1])
    return torch.cat(uphill, dim=1), torch.cat(steepness, dim=1)
