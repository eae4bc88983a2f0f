"""Conjugate gradients: against a dense solve, and what it promises of each iterate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learn2splat.pcg import Ending, block_jacobi, dot, jacobi, solve


def system(size: int = 150, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A positive definite matrix whose diagonal spans four decades, and a right-hand side."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size + 20, generator=generator, dtype=torch.float64)
    scale = torch.logspace(-2, 2, size, dtype=torch.float64)[torch.randperm(size, generator=generator)]
    matrix = scale[:, None] * (root @ root.T / size + torch.eye(size)) * scale
    return matrix.to(dtype), torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_it_agrees_with_a_dense_solve(dtype: torch.dtype, tolerance: float) -> None:
    matrix, b = system(dtype=dtype)
    found = solve(lambda v: matrix @ v, b, jacobi(matrix.diagonal()), tolerance=tolerance * 1e-2, limit=100)
    exact = torch.linalg.solve(matrix.double(), b.double())
    assert float((found.x - exact).norm() / exact.norm()) < tolerance
    assert found.iterations <= 100


def test_the_residuals_are_those_of_the_iterates_and_end_the_iteration() -> None:
    matrix, b = system(40)
    precondition = jacobi(matrix.diagonal())
    full = solve(lambda v: matrix @ v, b, precondition, tolerance=1e-6, limit=200)
    assert full.ending is Ending.CONVERGED
    assert full.residuals[-1] <= 1e-6 < full.residuals[-2]
    for limit in (1, 5, 9):
        found = solve(lambda v: matrix @ v, b, precondition, tolerance=1e-6, limit=limit)
        assert (found.ending, found.iterations) == (Ending.LIMIT, limit)
        residual = b - matrix @ found.x
        relative = math.sqrt(dot(residual, precondition(residual)) / dot(b, precondition(b)))
        assert found.residuals[-1] == pytest.approx(relative, rel=1e-8)
        assert found.residuals == pytest.approx(full.residuals[: limit + 1], rel=1e-12)
        assert dot(found.x, matrix @ found.x) == pytest.approx(dot(b, found.x), rel=1e-10)


def test_a_good_preconditioner_saves_iterations() -> None:
    matrix, b = system()
    plain, by_diagonal = (
        solve(lambda v: matrix @ v, b, *chosen, tolerance=1e-3, limit=500)
        for chosen in ((), (jacobi(matrix.diagonal()),))
    )
    exact = solve(lambda v: matrix @ v, b, lambda r: torch.linalg.solve(matrix, r), tolerance=1e-6)
    assert exact.iterations == 1
    assert by_diagonal.iterations < plain.iterations / 5


def test_blocks_solve_a_block_diagonal_system_at_once() -> None:
    rows, side, columns = 7, 3, 5
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(rows, side, side, generator=generator, dtype=torch.float64)
    blocks = root @ root.mT + torch.eye(side, dtype=torch.float64)
    diagonal = torch.rand(rows, columns, generator=generator, dtype=torch.float64) + 0.5
    b = torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    def product(v: Tensor) -> Tensor:
        return torch.cat([(blocks @ v[:, :side, None])[..., 0], diagonal[:, side:] * v[:, side:]], dim=1)

    found = solve(product, b, block_jacobi(blocks, diagonal), tolerance=1e-10)
    assert found.iterations == 1
    torch.testing.assert_close(product(found.x), b)


def test_negative_curvature_ends_it_with_what_was_found_before() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64))
    b = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    found = solve(lambda v: matrix @ v, b, tolerance=1e-12)
    assert found.ending is Ending.NEGATIVE_CURVATURE
    assert found.least_curvature < 0
    assert dot(b, found.x) > 0  # still a direction of descent
    at_once = solve(lambda v: -v, b)
    assert (at_once.ending, at_once.iterations) == (Ending.NEGATIVE_CURVATURE, 0)
    assert torch.equal(at_once.x, b)


def test_nothing_is_solved_by_nothing() -> None:
    found = solve(lambda v: v, torch.zeros(4))
    assert found.ending is Ending.CONVERGED
    assert torch.equal(found.x, torch.zeros(4))


def test_a_block_that_rounding_has_made_indefinite_is_solved_by_its_diagonal() -> None:
    ray = torch.tensor([1.0, 1e3, 1e6])
    singular = torch.outer(ray, ray) * (1 + 1e-6 * torch.triu(torch.ones(3, 3), 1))
    singular = torch.minimum(singular, singular.T) * torch.tensor([[1.0, 1.1, 1.0], [1.1, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert torch.linalg.eigvalsh(singular.double())[0] < 0
    sound = torch.diag(torch.tensor([2.0, 4.0, 8.0]))
    precondition = block_jacobi(torch.stack([singular, sound]), torch.full((2, 4), 2.0))
    found = precondition(torch.ones(2, 4))
    torch.testing.assert_close(found[0], torch.tensor([1.0, 1e-6, 1e-12, 0.5]))
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.25, 0.125, 0.5]))
