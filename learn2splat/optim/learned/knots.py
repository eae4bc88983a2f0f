"""Functions that are piecewise linear in log(1 + step), or in the logarithm of another count, and constant beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def log_positions(knots: Sequence[int]) -> list[float]:
    """log(1 + step) of ``knots``; ``ValueError`` unless they ascend."""
    if list(knots) != sorted(set(knots)) or not len(knots):
        raise ValueError(f"knots={list(knots)}: give ascending steps")
    return [math.log1p(step) for step in knots]


def hat_functions(number: int, log_knots: Sequence[float]) -> Tensor:
    """[knots] weights of a function piecewise linear in log(1 + number) and constant beyond the ends."""
    position = math.log1p(number)
    hats = [0.0] * len(log_knots)
    above = next((i for i, knot in enumerate(log_knots) if knot >= position), len(log_knots) - 1)
    below = max(above - 1, 0) if position <= log_knots[above] else above
    share = 1.0 if above == below else (position - log_knots[below]) / (log_knots[above] - log_knots[below])
    hats[below] += 1 - share
    hats[above] += share
    return torch.tensor(hats, dtype=torch.float64)


def ramp(log_knots: Sequence[float], first: int, last: int) -> list[float]:
    """At each knot 0 up to step ``first``, 1 from step ``last`` on, and linear in log(1 + step) between."""
    return [min(1.0, max(0.0, (knot - math.log(first)) / math.log(last / first))) for knot in log_knots]


def late_share(log_knots: Sequence[float]) -> list[float]:
    """At each knot how much of it counts as late."""
    return ramp(log_knots, 50, 1000)


def row_of(parameter: Tensor, row: Any, values: Sequence[float]) -> Tensor:
    """Zeros in the shape of ``parameter``, but for its rows at index ``row``."""
    filled = torch.zeros_like(parameter, requires_grad=False)
    filled[row] = torch.tensor(values).to(filled)
    return filled
