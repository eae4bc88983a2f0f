"""Row-wise functions over many Gaussians, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 8_192
"""Rows evaluated at once when no graph is kept."""


def by_chunks(function: Callable[..., Tensor], *rows: Tensor, chunk: int = CHUNK) -> Tensor:
    """``function(*rows)``, so that its intermediate results take memory for ``chunk`` rows only.

    With a graph they have to stay anyway, and all rows are evaluated at once. Results are equal to rounding.

    Args:
        function: makes [M, ...] of tensors [M, ...]; each row of the result depends on the same row of these alone.
        rows: tensors [N, ...].
        chunk: how many rows.
    """
    if torch.is_grad_enabled() or len(rows[0]) <= chunk:
        return function(*rows)
    pieces = zip(*(tensor.split(chunk) for tensor in rows), strict=True)
    return torch.cat([function(*piece) for piece in pieces])
