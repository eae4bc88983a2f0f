"""What a long run will take: bytes counted by hand, seconds from the median step."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.estimate import estimate, fixed_seconds
from learn2splat.optim.adam import Adam
from learn2splat.rollout_state import RolloutState, StepRecord
from tests.conformance.test_every_optimizer import OPTIMIZERS, make
from tests.conftest import random_scene
from tests.test_guarded_rollout import rollout as guarded_rollout
from tests.test_rollout import assert_equal
from tests.test_rollout_densify import rollout

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


@pytest.mark.parametrize(("budget", "seconds", "at_cap"), [(50.0, 50.0, 50.0), (200.0, 103.0, 200.0)])
def test_no_run_takes_longer_than_its_time_budget(budget: float, seconds: float, at_cap: float) -> None:
    found = estimate(state(), records(0.1), 1003, 4 * COUNT, 100.0, time_budget=budget)
    assert found.seconds == pytest.approx(seconds)
    assert found.seconds_at_cap == pytest.approx(at_cap)
    assert estimate(state(), records(0.1), sys.maxsize, COUNT, 100.0, time_budget=budget).seconds == budget


def test_what_every_step_costs_does_not_grow_with_the_gaussians() -> None:
    found = estimate(state(), records(0.1), 1003, 4 * COUNT, 100.0, fixed=0.08)
    assert found.seconds_at_cap == pytest.approx(3.0 + 1000 * (0.08 + 4 * 0.02))
    assert estimate(state(), records(0.1), 1003, 4 * COUNT, 100.0, fixed=0.2).seconds_at_cap == found.seconds


def test_measuring_what_every_step_costs_changes_nothing() -> None:
    straight, measured = rollout("default"), rollout("default")
    list(straight.run(6))
    list(measured.run(2))
    before = measured.state
    assert fixed_seconds(measured) > 0
    assert measured.state is before
    list(measured.run(6))
    assert_equal(straight.state.scene, measured.state.scene)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_every_step_costs_is_measured_with_every_optimizer(name: str) -> None:
    assert fixed_seconds(guarded_rollout(make(name))) > 0
