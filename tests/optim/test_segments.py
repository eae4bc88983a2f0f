"""Sums over segments and chunked evaluation against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat.networks.chunks import by_chunks
from learn2splat.optim.learned.segments import segment_mean, segment_sum, sum_sorted


def rows(count: int = 40, segments: int = 7) -> tuple[Tensor, Tensor]:
    """Values, and segments of which the last but one is empty."""
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    of = torch.randint(segments - 1, (count,), generator=generator)
    return values, torch.where(of == segments - 2, segments - 1, of)


def one_by_one(values: Tensor, pointers: Tensor) -> Tensor:
    """What torch-scatter's ``segment_csr`` is specified to do."""
    spans = zip(pointers[:-1].tolist(), pointers[1:].tolist(), strict=True)
    return torch.stack([values[begin:end].sum(dim=0) for begin, end in spans])


@pytest.mark.parametrize("count", [0, 1, 40])
def test_sums_and_means_equal_brute_force(count: int) -> None:
    values, segments = rows(count)
    members = [[row for row in range(count) if int(segments[row]) == segment] for segment in range(7)]
    sums = segment_sum(values, segments, 7)
    torch.testing.assert_close(sums, torch.stack([values[m].sum(dim=0) for m in members]))
    expected = torch.stack([values[m].sum(dim=0) / max(1, len(m)) for m in members])
    torch.testing.assert_close(segment_mean(sums, segments), expected)
    assert bool((sums[5] == 0).all())


@pytest.mark.parametrize("count", [0, 1, 40])
def test_the_sorted_path_equals_the_plain_one(count: int) -> None:
    values, segments = rows(count)
    torch.testing.assert_close(sum_sorted(values, segments, 7, one_by_one), segment_sum(values, segments, 7))


def test_the_sorted_path_equals_the_plain_one_with_torch_scatter() -> None:
    torch_scatter = pytest.importorskip("torch_scatter")
    values, segments = rows()
    values.requires_grad_()
    found = sum_sorted(values, segments, 7, lambda v, p: torch_scatter.segment_csr(v, p, reduce="sum"))
    expected = segment_sum(values, segments, 7)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (ours,), (theirs,) = (torch.autograd.grad((sums * weights).sum(), values) for sums in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_sums_are_differentiable() -> None:
    values, segments = rows(6)
    assert torch.autograd.gradcheck(
        lambda v: segment_mean(segment_sum(v, segments, 7), segments), values.requires_grad_()
    )


def test_chunks_bound_what_is_evaluated_at_once_but_for_a_graph() -> None:
    seen: list[int] = []

    def function(one: Tensor, two: Tensor) -> Tensor:
        seen.append(len(one))
        return one * two[:, :1]

    one, two = rows(20)[0], rows(20)[0]
    with torch.no_grad():
        assert torch.equal(by_chunks(function, one, two, chunk=6), one * two[:, :1])
    assert seen == [6, 6, 6, 2]
    seen.clear()
    by_chunks(function, one.requires_grad_(), two, chunk=6)
    assert seen == [20]
