"""What is computed on a GPU is what the CPU computes, up to rounding."""

from __future__ import annotations

import pytest
import torch

from learn2splat.config import choices
from learn2splat.data.views import RandomViews
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.learned.segments import segment_sum
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from tests.conformance.test_every_optimizer import OPTIMIZERS, make
from tests.test_rollout import capture, start_scene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch"),
]

STEPS = 4
TOLERANCE = 2e-3
"""Of the movement: signs of tiny gradients, which Adam makes whole steps of, may differ."""
SHARE = 0.98
"""Of the numbers that must be within it, for the same reason."""


def moved(name: str, device: str) -> GaussianScene:
    """How far `STEPS` steps of the optimizer move a small scene."""
    data, optimizer = capture(), make(name)
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss(), device=device)
    start = start_scene().to(device)
    sampler = RandomViews(loss.cameras, list(data.train), 2, seed=3)
    run = Rollout(loss, list(data.train), optimizer, sampler, RolloutState.start(start, optimizer), horizon=12)
    assert len(list(run.run(STEPS))) == STEPS
    return run.state.scene.map(torch.sub, start).to("cpu")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_moves_a_scene_as_on_the_cpu(name: str) -> None:
    here, there = moved(name, "cpu"), moved(name, "cuda")
    for group, expected in here.items():
        error, size = (getattr(there, group) - expected).abs(), float(expected.abs().max())
        assert (error <= TOLERANCE * size + 1e-7).float().mean() >= SHARE, f"{group}: {float(error.max())} of {size}"


def test_the_list_covers_every_optimizer_that_can_be_named() -> None:
    assert set(OPTIMIZERS) >= {*choices("optimizer"), *choices("trainee")}


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_sums_over_segments_are_those_of_the_cpu_and_the_same_each_time(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(count, 8, dtype=torch.float64, generator=draw)
    segments = torch.randint(0, 64, (count,), generator=draw)
    sums = segment_sum(values.cuda(), segments.cuda(), 64)
    torch.testing.assert_close(sums.cpu(), segment_sum(values, segments, 64))


def test_torch_scatter_gives_the_same_bits_each_time() -> None:
    pytest.importorskip("torch_scatter")
    values, segments = torch.randn(100_000, 8, device="cuda"), torch.randint(0, 64, (100_000,), device="cuda")
    assert torch.equal(segment_sum(values, segments, 64), segment_sum(values, segments, 64))
