"""How many gradients each parameter of each Gaussian has seen, and the bias corrections that follow.

A Gaussian that is born in mid-run starts from zero moments at age 0, so its first steps are as long as those at the
start of a run (Kingma & Ba 2015, section 3); with one count for all they would be several times as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from learn2splat.optim.base import OptimizerState
from learn2splat.scene.gaussians import GaussianScene

LONGEST = 2**20
"""Ages above this are treated as this."""


def newborn(scene: GaussianScene) -> dict[str, Tensor]:
    """State rows ``age.parameter`` [N, 1, ...] int32 of Gaussians that have seen no gradient."""
    return {
        f"age.{name}": torch.zeros(len(scene), *[1] * (tensor.ndim - 1), dtype=torch.int32, device=tensor.device)
        for name, tensor in scene.items()
    }


def older(state: OptimizerState, scene: GaussianScene) -> dict[str, Tensor]:
    """Parameter -> ages [N, 1, ...] int32 after one more gradient."""
    return {name: state.rows[f"age.{name}"].to(torch.int32) + 1 for name, _ in scene.items()}


def as_rows(ages: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `older`, but for the one gradient."""
    return {f"age.{name}": tensor for name, tensor in ages.items()}


@cache
def corrections(decay: float, power: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[A] bias correction ``(1 - decay^t)^-power`` of a moment that has seen t gradients; 1 for t = 0, which has none.

    The last entry holds for all later ages. Not to be changed in place.

    Args:
        decay: of the moment per gradient, in [0, 1).
        power: 1 for the moment itself, 0.5 for its root.
        dtype, device: of the result.
    """
    negligible = torch.finfo(torch.float64).eps / 2
    length = 2 if decay == 0 else min(LONGEST, 2 + math.ceil(math.log(negligible) / math.log(decay)))
    ages = torch.arange(1, length, dtype=torch.float64)
    table = torch.cat([torch.ones(1, dtype=torch.float64), (1 - decay**ages) ** -power])
    return table.to(dtype=dtype, device=device)


def correction(decay: float, power: float, ages: Tensor, dtype: torch.dtype) -> Tensor:
    """The entry of `corrections` for each of ``ages``, same shape; when compiled not read but computed, to rounding."""
    if torch.compiler.is_compiling():
        forgotten = torch.expm1(ages.to(dtype) * math.log(decay)) if decay else -torch.ones_like(ages, dtype=dtype)
        return torch.where(ages > 0, (-forgotten) ** -power, 1)
    table = corrections(decay, power, dtype, ages.device)
    return table[ages.clamp_max(len(table) - 1).long()]
