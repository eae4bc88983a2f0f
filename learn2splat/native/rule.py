"""One fused step of the learned rule over all parameters, in one call to the compiled library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import byref
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.native import loader

MOMENTS = ("m", "m_slow", "v", "v_fast")
BLOCK_ROWS = 32
"""Rows whose inner products are summed together; as in csrc/rule.cpp."""
WEIGHTS = ("slow", "newest", "fast_scale", "shared_scale")


@dataclass(frozen=True)
class RuleParameter:
    """One parameter [N, ...]; width is the product of its trailing sizes.

    Args:
        grad: [N, ...] float32 on the CPU.
        moments: four of that shape, in the order of `MOMENTS`.
        ages: N int32, in any shape: gradients that a row has seen, this one included.
        row_rates: [N, 1] step sizes per row, or None.
        column_rates: [1, width] step sizes per column.
        weights: [4, width] weights of the directions, in the order of `WEIGHTS`.
        group_ends: end column of each group of columns that shares a second moment, ascending.
    """

    grad: Tensor
    moments: Sequence[Tensor]
    ages: Tensor
    row_rates: Tensor | None
    column_rates: Tensor
    weights: Tensor
    group_ends: Sequence[int]


def rule_step(
    parameters: Sequence[RuleParameter],
    decays: Mapping[str, float],
    damping: float,
    corrections: Sequence[Tensor],
) -> list[tuple[Tensor, list[Tensor], Tensor]]:
    """(update, new moments, inner products) of each parameter; nothing is changed in place.

    The last are [groups, 3] float64: <g, m>, <g, g> and <m, m>, with m before the step, summed over each group.

    Args:
        parameters: of one scene.
        decays: ``m, m_slow, v, v_fast, eps``.
        damping: weight of the newest gradient in the base direction.
        corrections: [A] float32 bias corrections by age for each of `MOMENTS`; the last entry holds for later ages.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library = loader.library()
    if library is None:
        raise RuntimeError(f"the compiled library is missing ({loader.why_missing()}): {loader.INSTALL_HINT}")
    structures = (loader.RuleParameter * len(parameters))()
    results, alive = [], []  # what ctypes points to must stay alive until the call returns
    for structure, p in zip(structures, parameters, strict=True):
        inputs = [tensor.contiguous() for tensor in (p.grad, *p.moments)]
        update, *moments = (torch.empty_like(inputs[0]) for _ in range(1 + len(MOMENTS)))
        columns = [p.column_rates.float().reshape(-1).contiguous(), *p.weights.float().contiguous()]
        rows = None if p.row_rates is None else p.row_rates.float().reshape(-1).contiguous()
        names = ("grad", *MOMENTS, *(f"{name}_out" for name in MOMENTS), "update", "column_rates", *WEIGHTS)
        for name, tensor in zip(names, (*inputs, *moments, update, *columns), strict=True):
            setattr(structure, name, tensor.data_ptr())
        ages = p.ages.contiguous()
        structure.ages = ages.data_ptr()
        structure.row_rates = None if rows is None else rows.data_ptr()
        structure.rows, structure.width = p.grad.shape[0], columns[0].numel()
        ends = [end for i, end in enumerate(p.group_ends) if i == 0 or end > p.group_ends[i - 1]]
        structure.group_ends[: len(ends)] = ends
        structure.groups = len(ends)
        blocks = torch.empty(-(-p.grad.shape[0] // BLOCK_ROWS), len(ends), 3, dtype=torch.float64)
        structure.products = blocks.data_ptr()
        results.append((update, moments, blocks))
        alive.append((inputs, columns, rows, ages))
    tables = {f"correct_{name}": loader.correction(table) for name, table in zip(MOMENTS, corrections, strict=True)}
    constants = loader.RuleConstants(**decays, damping=damping, **tables)
    work = sum(parameter.grad.numel() for parameter in parameters)
    library.l2s_rule_step(structures, len(parameters), byref(constants), loader.thread_count(work // 4))
    return [(update, moments, blocks.sum(dim=0)) for update, moments, blocks in results]
