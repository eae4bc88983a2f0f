"""One fused step of the learned rule over all parameters, in calls to the compiled library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from ctypes import byref
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from learn2splat.native import loader

MOMENTS = ("m", "m_slow", "v", "v_fast")
WEIGHTS = ("slow", "newest", "fast_scale", "shared_scale")
GAIN_ROWS, STEP_ROWS = 64, 128
"""Rows whose traits, and whose inner products, are summed together; as in csrc/rule_gains.cpp and csrc/rule.cpp."""
LANES = 16
"""Numbers that scratch memory needs beyond its end, at most."""


@dataclass(frozen=True)
class RuleParameter:
    """One parameter [N, ...]; width is the product of its trailing sizes.

    Args:
        grad: [N, ...] float32 on the CPU.
        moments: in the order of `MOMENTS`; m and v of that shape, the others [N, ...] of its first columns: the rest
            is without the directions that need them.
        squares: [N, groups of it] mean second moment of each of its groups before the step.
        ages: N int32, in any shape: gradients that a row has seen, this one included.
        first_group: of the parameter, among all groups.
        ends: end column of each of its groups, ascending; groups may be empty.
    """

    grad: Tensor
    moments: Sequence[Tensor]
    squares: Tensor
    ages: Tensor
    first_group: int
    ends: Sequence[int]

    @property
    def width(self) -> int:
        return self.ends[-1]

    @property
    def full_width(self) -> int:
        return math.prod(self.moments[MOMENTS.index("m_slow")].shape[1:])

    @property
    def groups(self) -> int:
        """How many of its groups are not empty; empty ones come last."""
        return 1 + sum(begin < end for begin, end in pairwise(self.ends))


@dataclass(frozen=True)
class Bounds:
    """Of traits, of the logarithm of gains, and the least number under a logarithm."""

    trait: float
    log_gain: float
    tiny: float


def rule_gains(
    parameters: Sequence[RuleParameter],
    log_scales: Tensor,
    footprint: Tensor,
    visibility: Tensor,
    visible: Tensor,
    powers: Tensor,
    decays: tuple[float, float],
    correct_v: Tensor,
    bounds: Bounds,
) -> tuple[Tensor, Tensor, Tensor]:
    """([N, groups] mean second moments after the step, [N] visibility after it, [groups, N] factors on the steps).

    Args:
        parameters: of one scene.
        log_scales: [N, 3].
        footprint: [N] size of a pixel at each Gaussian, world units.
        visibility: [N] share of recent steps in which each was drawn, before the step.
        visible: [N] bool, drawn in this one.
        powers: [3, groups] of size, loudness and visibility.
        decays: of the second moments and of the visibility.
        correct_v: [A] float32 bias correction of second moments by age; the last entry holds for later ages.
        bounds: of traits and gains.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library, (rows, groups) = _library(), (len(log_scales), powers.shape[1])
    inputs = [tensor.float().contiguous() for tensor in (log_scales, footprint, visibility)]
    inputs += [visible.to(torch.bool).contiguous(), powers.float().contiguous()]
    blocks = -(-rows // GAIN_ROWS)
    squares_out, visibility_out, gains = (
        torch.empty(rows, groups),
        torch.empty(rows),
        torch.empty(groups, rows),
    )
    traits, sums = torch.empty((groups + 2) * rows + LANES), torch.empty(blocks, groups + 3, dtype=torch.float64)
    tensors = (*inputs, squares_out, visibility_out, gains, traits, sums)
    scalars = (*decays, bounds.trait, bounds.log_gain, bounds.tiny)
    given = loader.Gains(*(tensor.data_ptr() for tensor in tensors), rows, *scalars, loader.correction(correct_v))
    structures, alive = (loader.GainParameter * len(parameters))(), []
    for i, p in enumerate(parameters):
        grad, ages = p.grad.contiguous(), p.ages.contiguous()
        squares = p.squares if p.squares.stride(1) == 1 else p.squares.contiguous()
        pointers = (grad.data_ptr(), squares.data_ptr(), ages.data_ptr(), squares.stride(0))
        structures[i] = loader.GainParameter(*pointers, p.width, p.groups, p.first_group, tuple(p.ends))
        alive.append((grad, squares, ages))  # what ctypes points to must stay alive until the call returns
    threads = loader.thread_count(sum(p.grad.numel() for p in parameters) // 8)
    library.l2s_rule_gains(byref(given), structures, len(parameters), threads)
    return squares_out, visibility_out, gains


def rule_step(
    parameters: Sequence[RuleParameter],
    columns: Tensor,
    squares: Tensor,
    gains: Tensor,
    decays: Mapping[str, float],
    damping: float,
    corrections: Sequence[Tensor],
) -> tuple[list[Tensor], list[list[Tensor]], Tensor]:
    """(updates, new moments of each parameter, inner products); nothing is changed in place.

    The last are [groups, 3] float64: <g, m>, <g, g> and <m, m>, with m before the step, summed over each group.

    Args:
        parameters: of one scene.
        columns: [5, sum of widths] step sizes and, in the order of `WEIGHTS`, weights of the directions; within a
            group the last of them is one number.
        squares: [N, groups] float32 mean second moment of each group, after the newest gradient.
        gains: [groups, N] float32 factors on the steps.
        decays: ``m, m_slow, v, v_fast, eps``.
        damping: weight of the newest gradient in the base direction.
        corrections: [A] float32 bias corrections by age for each of `MOMENTS`; the last entry holds for later ages.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library, (rows, groups) = _library(), squares.shape
    columns, squares, gains = columns.float().contiguous(), squares.contiguous(), gains.contiguous()
    products = torch.zeros(-(-rows // STEP_ROWS), groups, 3, dtype=torch.float64)
    structures = (loader.RuleParameter * len(parameters))()
    updates, moments, alive, first_column = [], [], [], 0
    for i, p in enumerate(parameters):
        inputs, ages = [tensor.contiguous() for tensor in (p.grad, *p.moments)], p.ages.contiguous()
        update, *new = (torch.empty_like(tensor) for tensor in inputs)
        structures[i] = loader.RuleParameter(
            *(tensor.data_ptr() for tensor in (*inputs, *new, update)),
            *(columns.data_ptr() + 4 * (row * columns.shape[1] + first_column) for row in range(1 + len(WEIGHTS))),
            squares.data_ptr() + 4 * p.first_group,
            gains.data_ptr() + 4 * p.first_group * rows,
            ages.data_ptr(),
            rows,
            p.width,
            p.full_width,
            p.groups,
            groups,
            tuple(p.ends),
            products.data_ptr() + 8 * p.first_group * 3,
            3 * groups,
        )
        updates.append(update)
        moments.append(new)
        alive.append((inputs, ages))
        first_column += p.width
    tables = {f"correct_{name}": loader.correction(table) for name, table in zip(MOMENTS, corrections, strict=True)}
    constants = loader.RuleConstants(**decays, damping=damping, **tables)
    work = sum(parameter.grad.numel() for parameter in parameters)
    library.l2s_rule_step(structures, len(parameters), byref(constants), loader.thread_count(work // 4))
    return updates, moments, products.sum(dim=0)


def _library() -> loader.ctypes.CDLL:
    library = loader.library()
    if library is None:
        raise RuntimeError(f"the compiled library is missing ({loader.why_missing()}): {loader.INSTALL_HINT}")
    return library
