"""One fused step of the learned rule over all parameters, in calls to the compiled library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import Structure, byref
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.native import loader

MOMENTS = ("m", "m_slow", "v", "v_fast")
BLOCK_ROWS = 32
"""Rows whose inner products are summed together; as in csrc/rule.cpp."""
WEIGHTS = ("slow", "newest", "fast_scale", "shared_scale")


@dataclass(frozen=True)
class Columns:
    """Which columns of a parameter [N, width] belong to which group.

    Args:
        first_group: of the parameter, among all groups.
        ends: end column of each of its groups, ascending; groups may be empty.
    """

    first_group: int
    ends: Sequence[int]

    def write(self, structure: Structure) -> None:
        """Fill ``groups`` and ``group_ends``."""
        ends = [end for i, end in enumerate(self.ends) if i == 0 or end > self.ends[i - 1]]
        structure.group_ends[: len(ends)] = ends
        structure.groups = len(ends)


@dataclass(frozen=True)
class RuleParameter:
    """One parameter [N, ...]; width is the product of its trailing sizes.

    Args:
        grad: [N, ...] float32 on the CPU.
        moments: four of that shape, in the order of `MOMENTS`.
        ages: N int32, in any shape: gradients that a row has seen, this one included.
        column_rates: [1, width] step sizes.
        weights: [4, width] weights of the directions, in the order of `WEIGHTS`.
        columns: its groups.
    """

    grad: Tensor
    moments: Sequence[Tensor]
    ages: Tensor
    column_rates: Tensor
    weights: Tensor
    columns: Columns


def group_squares(grads: Sequence[tuple[Tensor, Columns]], groups: int) -> Tensor:
    """[N, groups] mean square of each group of gradients [N, ...] float32 on the CPU; 0 for empty groups.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library = _library()
    squares = torch.zeros(len(grads[0][0]), groups)
    structures = (loader.GroupSquares * len(grads))()
    alive = [grad.contiguous() for grad, _ in grads]  # what ctypes points to must stay alive until the call returns
    for structure, grad, (_, columns) in zip(structures, alive, grads, strict=True):
        structure.grad = grad.data_ptr()
        structure.squares = squares[:, columns.first_group :].data_ptr()
        structure.rows, structure.width, structure.group_stride = len(grad), columns.ends[-1], groups
        columns.write(structure)
    library.l2s_group_squares(structures, len(grads), loader.thread_count(sum(grad.numel() for grad in alive) // 8))
    return squares


def rule_step(
    parameters: Sequence[RuleParameter],
    squares: Tensor,
    gains: Tensor,
    decays: Mapping[str, float],
    damping: float,
    corrections: Sequence[Tensor],
) -> list[tuple[Tensor, list[Tensor], Tensor]]:
    """(update, new moments, inner products) of each parameter; nothing is changed in place.

    The last are [groups, 3] float64: <g, m>, <g, g> and <m, m>, with m before the step, summed over each group.

    Args:
        parameters: of one scene.
        squares: [N, groups] float32 mean second moment of each group, after the newest gradient.
        gains: [N, groups] float32 factors on the steps.
        decays: ``m, m_slow, v, v_fast, eps``.
        damping: weight of the newest gradient in the base direction.
        corrections: [A] float32 bias corrections by age for each of `MOMENTS`; the last entry holds for later ages.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library = _library()
    squares, gains = squares.contiguous(), gains.contiguous()
    structures = (loader.RuleParameter * len(parameters))()
    results, alive = [], []
    for structure, p in zip(structures, parameters, strict=True):
        inputs = [tensor.contiguous() for tensor in (p.grad, *p.moments)]
        update, *moments = (torch.empty_like(inputs[0]) for _ in range(1 + len(MOMENTS)))
        columns = [p.column_rates.float().reshape(-1).contiguous(), *p.weights.float().contiguous()]
        names = ("grad", *MOMENTS, *(f"{name}_out" for name in MOMENTS), "update", "column_rates", *WEIGHTS)
        for name, tensor in zip(names, (*inputs, *moments, update, *columns), strict=True):
            setattr(structure, name, tensor.data_ptr())
        ages = p.ages.contiguous()
        structure.ages = ages.data_ptr()
        structure.squares = squares[:, p.columns.first_group :].data_ptr()
        structure.gains = gains[:, p.columns.first_group :].data_ptr()
        structure.group_stride = squares.shape[1]
        structure.rows, structure.width = p.grad.shape[0], columns[0].numel()
        p.columns.write(structure)
        blocks = torch.empty(-(-p.grad.shape[0] // BLOCK_ROWS), structure.groups, 3, dtype=torch.float64)
        structure.products = blocks.data_ptr()
        results.append((update, moments, blocks))
        alive.append((inputs, columns, ages))
    tables = {f"correct_{name}": loader.correction(table) for name, table in zip(MOMENTS, corrections, strict=True)}
    constants = loader.RuleConstants(**decays, damping=damping, **tables)
    work = sum(parameter.grad.numel() for parameter in parameters)
    library.l2s_rule_step(structures, len(parameters), byref(constants), loader.thread_count(work // 4))
    return [(update, moments, blocks.sum(dim=0)) for update, moments, blocks in results]


def _library() -> loader.ctypes.CDLL:
    library = loader.library()
    if library is None:
        raise RuntimeError(f"the compiled library is missing ({loader.why_missing()}): {loader.INSTALL_HINT}")
    return library
