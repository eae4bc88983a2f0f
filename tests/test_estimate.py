"""What a long run will take: bytes counted by hand, seconds from the median step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.estimate import estimate
from learn2splat.optim.adam import Adam
from learn2splat.rollout_state import RolloutState, StepRecord
from tests.conftest import random_scene

COUNT = 50


def records(*seconds: float) -> list[StepRecord]:
    return [StepRecord(step + 1, 0.1, 0.1, 0.9, 0.25 * s, 0.75 * s, COUNT) for step, s in enumerate(seconds)]


def state(average: bool = True) -> RolloutState:
    densifier = AdaptiveDensityControl()
    start = RolloutState.start(random_scene(COUNT, dtype=torch.float32), Adam(), average, densifier)
    return replace(start, step=3, seconds_render=1.0, seconds_update=2.0)


def test_bytes_per_gaussian_are_those_of_everything_a_step_holds() -> None:
    """59 floats each: scene, average, two moments, all of them twice; best, gradient, update; ages and statistics."""
    floats, ages, statistics = 59, 5, 2
    found = estimate(state(), records(0.1), 10, COUNT, 100.0).bytes_per_gaussian
    assert found == 4 * (2 * (4 * floats + ages + statistics) + 3 * floats)
    assert estimate(state(average=False), records(0.1), 10, COUNT, 100.0).bytes_per_gaussian == found - 4 * 2 * floats


def test_times_are_those_of_the_median_step_and_the_cap_costs_in_proportion() -> None:
    found = estimate(state(), records(9.0, 0.1, 0.1), 1003, 4 * COUNT, 100.0)
    assert found.seconds_per_step == pytest.approx(0.1)
    assert found.seconds == pytest.approx(3.0 + 100.0)
    assert found.seconds_at_cap == pytest.approx(3.0 + 400.0)
    assert found.memory_at_cap_mb == pytest.approx(100.0 + 3 * COUNT * found.bytes_per_gaussian / 2**20)
    same = estimate(state(), records(0.1), 1003, 10, 100.0)
    assert same.max_gaussians == COUNT
    assert same.seconds_at_cap == same.seconds
    assert same.memory_at_cap_mb == same.memory_mb == 100.0
