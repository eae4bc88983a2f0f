"""Preconditioned conjugate gradients for A x = b with a symmetric A that is known only by its products.

Hestenes & Stiefel 1952, in the form of Nocedal & Wright 2006, algorithm 5.3; a direction of negative curvature ends it
as in Steihaug 1983. Vectors may have any shape; their dot products are summed in float64, without which float32
iterations lose conjugacy after a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
"""A symmetric linear map; its argument and result have the shape of x."""


class Ending(Enum):
    """Why the iteration ended."""

    CONVERGED = "converged"
    LIMIT = "limit"
    NEGATIVE_CURVATURE = "negative curvature"


@dataclass(frozen=True)
class Solution:
    """What `solve` found.

    Args:
        x: the last iterate.
        residuals: sqrt(r^T M^-1 r) of each iterate, the start included, relative to that of b.
        least_curvature: least p^T A p / p^T p of the directions p that were tried; infinite without any.
        ending: why the iteration ended.
    """

    x: Tensor
    residuals: tuple[float, ...]
    least_curvature: float
    ending: Ending

    @property
    def iterations(self) -> int:
        """Steps taken."""
        return len(self.residuals) - 1


def solve(
    product: Operator,
    b: Tensor,
    precondition: Operator = lambda residual: residual,
    tolerance: float = 1e-2,
    limit: int = 10,
) -> Solution:
    """Approximate A^-1 b, starting from zero.

    Every iterate minimises x^T A x / 2 - b^T x over what it has explored, so that x^T A x = b^T x.

    Args:
        product: A v, with A positive definite on what b reaches (otherwise see `Ending.NEGATIVE_CURVATURE`: the iterate
            before the offending direction is returned, or M^-1 b when that is the first).
        b: the right-hand side.
        precondition: M^-1 r, positive definite.
        tolerance: ends when the residual, relative to that of b, is not above this.
        limit: most products.
    """
    x, residual = torch.zeros_like(b), b
    direction = solved = precondition(residual)
    squared = first = dot(residual, solved)
    residuals, least, ending = [1.0 if first > 0 else 0.0], math.inf, Ending.LIMIT
    while True:
        if residuals[-1] <= tolerance:
            ending = Ending.CONVERGED
            break
        if len(residuals) > limit:
            break
        image = product(direction)
        curvature = dot(direction, image)
        least = min(least, curvature / dot(direction, direction))
        if not curvature > 0:
            x = direction if len(residuals) == 1 else x
            ending = Ending.NEGATIVE_CURVATURE
            break
        length = squared / curvature
        x = x.add(direction, alpha=length)
        residual = residual.sub(image, alpha=length)
        solved = precondition(residual)
        before, squared = squared, dot(residual, solved)
        direction = solved.add(direction, alpha=squared / before)
        residuals.append(math.sqrt(max(squared, 0.0) / first))
    return Solution(x, tuple(residuals), least, ending)


def dot(one: Tensor, two: Tensor) -> float:
    """Sum of the products of all entries, in float64."""
    return float(torch.dot(one.flatten().double(), two.flatten().double()))


def jacobi(diagonal: Tensor) -> Operator:
    """Division by a positive ``diagonal`` of A (or an approximation of it) of x's shape."""
    return lambda residual: residual / diagonal


def block_jacobi(blocks: Tensor, diagonal: Tensor) -> Operator:
    """Solves with small dense blocks of A, row by row; with its diagonal where a block is not positive after rounding.

    Args:
        blocks: [N, k, k] positive definite: of the first k entries of each row.
        diagonal: [N, P] positive: of the entries from k on; the others are not used. x is [N, P].
    """
    side = blocks.shape[-1]
    scale = blocks.diagonal(dim1=1, dim2=2).rsqrt()  # to a diagonal of ones: raw parameters differ by many orders
    factors, failed = torch.linalg.cholesky_ex(scale[:, :, None] * blocks * scale[:, None, :])
    ones = torch.eye(side, dtype=blocks.dtype, device=blocks.device)
    factors = torch.where((failed > 0)[:, None, None], ones, factors)

    def precondition(residual: Tensor) -> Tensor:
        inside = scale * torch.cholesky_solve((scale * residual[:, :side])[..., None], factors)[..., 0]
        return torch.cat([inside, residual[:, side:] / diagonal[:, side:]], dim=1)

    return precondition
