"""What is computed on a GPU is what the CPU computes, up to rounding."""

from __future__ import annotations

import warnings

import pytest
import torch

from learn2splat.optim.fusing import LONG
from learn2splat.optim.learned.segments import segment_sum
from learn2splat.render.reference import ReferenceRenderer
from tests.conformance.test_every_optimizer import OPTIMIZERS
from tests.devices import assert_same_movement, moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch"),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_moves_a_scene_as_on_the_cpu(name: str) -> None:
    renderer = ReferenceRenderer()
    assert_same_movement(moved(name, renderer, "cuda"), moved(name, renderer, "cpu"))


@pytest.mark.parametrize("name", ["l2s", "adam-tuned"])
def test_compiled_steps_move_a_scene_as_on_the_cpu(name: str) -> None:
    renderer = ReferenceRenderer()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="steps are not compiled")
        there = moved(name, renderer, "cuda", LONG)
    assert_same_movement(there, moved(name, renderer, "cpu", LONG))


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_sums_over_segments_are_those_of_the_cpu(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(count, 8, dtype=torch.float64, generator=draw)
    segments = torch.randint(0, 64, (count,), generator=draw)
    sums = segment_sum(values.cuda(), segments.cuda(), 64)
    torch.testing.assert_close(sums.cpu(), segment_sum(values, segments, 64))


def test_torch_scatter_gives_the_same_bits_each_time() -> None:
    pytest.importorskip("torch_scatter")
    values, segments = torch.randn(100_000, 8, device="cuda"), torch.randint(0, 64, (100_000,), device="cuda")
    assert torch.equal(segment_sum(values, segments, 64), segment_sum(values, segments, 64))
