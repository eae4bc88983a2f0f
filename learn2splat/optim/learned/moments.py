"""What learned optimizers remember of past gradients, and the descent directions they mix from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor

from learn2splat.optim.ages import correction
from learn2splat.scene.gaussians import GaussianScene

GROUPS = ("means", "log_scales", "quats", "logit_opacities", "sh0", "shN")
"""Parameter groups with constants of their own."""
PARAMETERS = tuple(field.name for field in fields(GaussianScene))
DIRECTIONS = ("slow", "newest", "fast_scale", "shared_scale")
"""Directions that are mixed into the base direction m / sqrt(v):

- slow: the first moment remembers 100 steps instead of 10;
- newest: the gradient itself (Nesterov-like damping);
- fast_scale: the second moment remembers 50 steps instead of 1,000;
- shared_scale: one second moment for all numbers of a group of a Gaussian.
"""
LEAN_GROUP = "shN"
"""Three quarters of all numbers: it has no directions `LEAN_WITHOUT`, and does not keep their `LEAN_MOMENTS`."""
LEAN_WITHOUT = ("slow", "fast_scale")
LEAN_MOMENTS = ("m_slow", "v_fast")


@dataclass(frozen=True)
class MomentDecays:
    """Decay per step of the first (m) and second (v) moments."""

    m: float = 0.9
    m_slow: float = 0.99
    v: float = 0.999
    v_fast: float = 0.98
    eps: float = 1e-15


def group_slices(parameter: str, coefficients: int) -> dict[str, slice]:
    """Which columns of a parameter, seen as [N, width], belong to which group.

    Args:
        parameter: name of a field of `GaussianScene`.
        coefficients: harmonics per channel, K.
    """
    if parameter != "sh":
        return {parameter: slice(None)}
    return {"sh0": slice(0, 3), "shN": slice(3, 3 * coefficients)}


def kept(moment: str, parameter: str, values: Tensor) -> Tensor:
    """Those of ``values`` [N, ...], in the shape of ``parameter``, of which ``moment`` is kept."""
    return values[:, :1] if parameter == "sh" and moment in LEAN_MOMENTS else values


def as_matrix(parameter: Tensor) -> Tensor:
    """[N, ...] -> [N, width]."""
    return parameter.reshape(parameter.shape[0], math.prod(parameter.shape[1:]))


def columns_of(parameter: str, values: Tensor, width: int) -> Tensor:
    """[..., groups] numbers by group -> [..., width] by column of one parameter, or [..., 1] if all are the same.

    Args:
        parameter: name of a field of `GaussianScene`.
        values: in the order of `GROUPS`.
        width: numbers of a Gaussian's parameter.
    """
    if parameter != "sh":
        at = GROUPS.index(parameter)
        return values[..., at : at + 1]
    sh0, sh_n = values[..., -2:-1], values[..., -1:]
    return torch.cat([sh0.expand(*sh0.shape[:-1], 3), sh_n.expand(*sh_n.shape[:-1], width - 3)], dim=-1)


@cache
def group_of_column(coefficients: int, device: torch.device) -> Tensor:
    """[numbers of a Gaussian] which group each belongs to, with so many harmonics per channel; not to be changed."""
    widths = (3, 3, 4, 1, 3, 3 * (coefficients - 1))
    return torch.tensor([group for group, width in enumerate(widths) for _ in range(width)], device=device)


def advance(old: Mapping[str, Tensor], parameter: str, grad: Tensor, decays: MomentDecays) -> dict[str, Tensor]:
    """The moments of one parameter after one more gradient, as far as `kept`; nothing is changed in place."""

    def advanced(moment: str) -> Tensor:
        decay, newest = getattr(decays, moment), kept(moment, parameter, grad)
        if moment.startswith("v"):
            return (old[moment] * decay).addcmul_(newest, newest, value=1 - decay)
        return old[moment].lerp(newest, 1 - decay)

    return {moment: advanced(moment) for moment in old}


def directions(
    moments: Mapping[str, Tensor],
    grad: Tensor,
    ages: Tensor,
    squares: Tensor,
    decays: MomentDecays,
    damping: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The base direction and those of `DIRECTIONS` for one parameter, all [N, width] and all of order 1.

    Args:
        moments: as from `advance`; a direction is 0 for columns, the last ones, without one that it needs.
        grad: [N, ...] the newest gradient.
        ages: N gradients seen, the newest included, in any shape (bias correction).
        squares: [N, width or 1] mean of v over the group of each number.
        decays: constants.
        damping: weight of the newest gradient in the base direction (m + damping * g) / sqrt(v).
    """
    flat = {name: as_matrix(tensor) for name, tensor in moments.items()}
    g = as_matrix(grad)
    full = flat["m_slow"].shape[1]

    def correct(decay: float, power: float) -> Tensor:
        return correction(decay, power, ages.reshape(-1, 1), g.dtype)

    def padded(direction: Tensor) -> Tensor:
        return torch.nn.functional.pad(direction, (0, g.shape[1] - full))

    m = flat["m"] * correct(decays.m, 1.0)
    m_slow = flat["m_slow"] * correct(decays.m_slow, 1.0)
    correct_v = correct(decays.v, 0.5)
    root_v = flat["v"].sqrt() * correct_v + decays.eps
    root_fast = flat["v_fast"].sqrt() * correct(decays.v_fast, 0.5) + decays.eps
    root_shared = squares.sqrt() * correct_v + decays.eps
    base = m.add(g, alpha=damping) / root_v
    return base, {
        "slow": padded(m_slow / root_v[:, :full]),
        "newest": g / root_v,
        "fast_scale": padded(m[:, :full] / root_fast),
        "shared_scale": m / root_shared,
    }


def mixture(
    grad: Tensor,
    m: Tensor,
    m_slow: Tensor,
    v: Tensor,
    v_fast: Tensor,
    ages: Tensor,
    squares: Tensor,
    gains: Tensor,
    rates: Tensor,
    *,
    parameter: str,
    weights: Tensor,
    decays: MomentDecays,
    damping: float,
) -> Tensor:
    """The update [N, width] of one parameter: minus rates x gains x (base + weighted `DIRECTIONS`).

    Args:
        grad, m, m_slow, v, v_fast, ages: as for `directions`.
        squares, gains: [N, groups] mean second moments and factors on the steps.
        rates: [N, width or 1] step sizes.
        parameter: its name.
        weights: [directions, width or 1].
        decays, damping: as for `directions`.
    """
    moments = {"m": m, "m_slow": m_slow, "v": v, "v_fast": v_fast}
    squares, gains = (columns_of(parameter, values, as_matrix(grad).shape[1]) for values in (squares, gains))
    base, others = directions(moments, grad, ages, squares, decays, damping)
    mixed = base + sum(w * b for w, b in zip(weights, others.values(), strict=True))
    return -rates * mixed * gains


def by_group(scene: GaussianScene, squared: bool = False) -> Tensor:
    """[N, groups] mean square over the numbers of each group; with ``squared`` the input is squared already."""
    columns = []
    for name, tensor in scene.items():
        matrix = as_matrix(tensor)
        for part in group_slices(name, scene.sh.shape[1]).values():
            values = matrix[:, part]
            total = values.sum(dim=1) if squared else values.square().sum(dim=1)
            columns.append(total / max(1, values.shape[1]))
    return torch.stack(columns, dim=1)


def split_groups(name: str, values: Tensor) -> dict[str, Tensor]:
    """State rows ``name.parameter`` [N, groups of it] of ``values`` [N, groups]: they follow its restarts.

    They are no views: what is compiled for these would be compiled anew for rows that were taken.
    """
    widths = [2 if parameter == "sh" else 1 for parameter in PARAMETERS]
    return {f"{name}.{p}": part.clone() for p, part in zip(PARAMETERS, values.split(widths, dim=1), strict=True)}


def join_groups(name: str, rows: Mapping[str, Tensor]) -> Tensor:
    """The inverse of `split_groups`."""
    return torch.cat([rows[f"{name}.{parameter}"] for parameter in PARAMETERS], dim=1)


def trusted(learned: Tensor, trust: float) -> Tensor:
    """``trust * learned``, and 0 at no trust even where ``learned`` is not finite."""
    return trust * learned if trust else torch.zeros_like(learned)


def scaled_by_group(update: GaussianScene, gain: Tensor) -> GaussianScene:
    """``update`` with the numbers of group g of row n multiplied by ``gain[n, g]``."""
    scaled = []
    for name, tensor in update.items():
        parts = [
            as_matrix(tensor)[:, columns] * gain[:, GROUPS.index(group), None]
            for group, columns in group_slices(name, update.sh.shape[1]).items()
        ]
        scaled.append(torch.cat(parts, dim=1).view_as(tensor))
    return GaussianScene(*scaled)
