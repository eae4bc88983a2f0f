"""One fused Adam step over several parameters, in one call to the compiled library."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.native import loader


@dataclass(frozen=True)
class AdamConstants:
    """Constants of one step.

    Args:
        beta1, beta2, eps, damping: as in `optim.adam.Adam`.
        correct_m, correct_v: [A] float32 bias corrections by age; the last entry holds for all later ages.
    """

    beta1: float
    beta2: float
    eps: float
    damping: float
    correct_m: Tensor
    correct_v: Tensor


@dataclass(frozen=True)
class AdamParameter:
    """One parameter [N, ...] with its gradient, moments and step sizes.

    Args:
        grad, m, v: [N, ...] float32 on the CPU.
        ages: N int32, in any shape: gradients that a row has seen, this one included.
        rate: step sizes; broadcasts against the parameter: a number, one per row [N, 1, ...] or one per column.
    """

    grad: Tensor
    m: Tensor
    v: Tensor
    ages: Tensor
    rate: Tensor


def adam_step(parameters: Sequence[AdamParameter], constants: AdamConstants) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(new m, new v, update) of each parameter; nothing is changed in place.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library = loader.library()
    if library is None:
        raise RuntimeError(f"the compiled library is missing ({loader.why_missing()}): {loader.INSTALL_HINT}")
    groups = (loader.AdamGroup * len(parameters))()
    results, alive = [], []  # what ctypes points to must stay alive until the call returns
    for group, parameter in zip(groups, parameters, strict=True):
        inputs = [tensor.contiguous() for tensor in (parameter.grad, parameter.m, parameter.v)]
        outputs = (torch.empty_like(inputs[0]), torch.empty_like(inputs[0]), torch.empty_like(inputs[0]))
        rows = inputs[0].shape[0]
        width = inputs[0][0].numel() if rows else 1
        row_rates, column_rates = _rates(parameter.rate, inputs[0], width)
        ages = parameter.ages.contiguous()
        pointers = [tensor.data_ptr() for tensor in (*inputs, *outputs)]
        group.grad, group.m, group.v, group.m_out, group.v_out, group.update = pointers
        group.ages = ages.data_ptr()
        group.row_rates = None if row_rates is None else row_rates.data_ptr()
        group.column_rates = column_rates.data_ptr()
        group.rows, group.width = rows, width
        results.append(outputs)
        alive.append((inputs, ages, row_rates, column_rates))
    total = sum(parameter.grad.numel() for parameter in parameters)
    tables = [loader.correction(table) for table in (constants.correct_m, constants.correct_v)]
    native_constants = loader.AdamConstants(constants.beta1, constants.beta2, constants.eps, constants.damping, *tables)
    library.l2s_adam_step(groups, len(parameters), byref(native_constants), loader.thread_count(total // 4))
    return results


def _rates(rate: Tensor, parameter: Tensor, width: int) -> tuple[Tensor | None, Tensor]:
    """Step sizes as (one per row or None, one per column)."""
    rate = rate.to(parameter)
    per_row = rate.ndim == parameter.ndim > 1 and rate.shape == (parameter.shape[0], *[1] * (rate.ndim - 1))
    if per_row:
        return rate.reshape(-1).contiguous(), torch.ones(width)
    if rate.numel() == 1:
        return None, rate.reshape(1).expand(width).contiguous()
    return None, rate.expand(parameter.shape[1:]).reshape(-1).contiguous()
