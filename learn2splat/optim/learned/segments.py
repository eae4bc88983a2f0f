"""Sums and means over segments of rows: the reductions of the long-range path.

On CUDA with torch-scatter installed (``pip install 'learn2splat[pointops]'``) rows are sorted by segment and reduced in
order, which gives the same bits each time; torch's own ``index_add`` there adds in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

SortedSum = Callable[[Tensor, Tensor], Tensor]
"""Rows [N, C] sorted by segment, pointers [S + 1] to the segments' first rows -> sums [S, C]."""


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """[count, C] sums of the rows of each segment, zero for an empty one; differentiable in ``values``.

    Args:
        values: [N, C].
        segments: [N] int64, 0..count-1.
        count: number of segments.
    """
    sorted_sum = _torch_scatter() if values.is_cuda else None
    if sorted_sum is not None:
        return sum_sorted(values, segments, count, sorted_sum)
    return values.new_zeros(count, values.shape[1]).index_add(0, segments, values)


def segment_mean(sums: Tensor, segments: Tensor) -> Tensor:
    """[S, C] means of the rows of each segment, zero for an empty one.

    Args:
        sums: [S, C] from `segment_sum`.
        segments: [N] as given to it.
    """
    return sums / _sizes(segments, len(sums)).clamp_min(1)[:, None]


def sum_sorted(values: Tensor, segments: Tensor, count: int, sorted_sum: SortedSum) -> Tensor:
    """`segment_sum` by sorting and ``sorted_sum``."""
    order = segments.argsort(stable=True)
    pointers = torch.nn.functional.pad(_sizes(segments, count).cumsum(0), (1, 0))
    return sorted_sum(values[order], pointers)


def _sizes(segments: Tensor, count: int) -> Tensor:
    """[count] int64 rows of each segment; unlike ``bincount`` it does not wait for the device."""
    return segments.new_zeros(count).index_add(0, segments, torch.ones_like(segments))


@cache
def _torch_scatter() -> SortedSum | None:
    try:
        from torch_scatter import segment_csr
    except ImportError:
        return None
    return lambda values, pointers: segment_csr(values, pointers, reduce="sum")
