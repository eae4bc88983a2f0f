"""The guard's decisions from losses, and what trust means to learned optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from learn2splat.optim.adam import Adam
from learn2splat.optim.base import SceneOptimizer, StepContext
from learn2splat.optim.guard import Guard
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.learned.tiny import LearnedGain
from learn2splat.scene.gaussians import GaussianScene
from tests.conftest import random_scene
from tests.optim.test_learned_rule import RATES, SCHEDULE, trained
from tests.optim.test_tiny import N, context

STEPS = 5000


def noise(seed: int, sigma: float) -> np.ndarray:
    return np.exp(sigma * np.random.default_rng(seed).standard_normal(STEPS))


def alarm_step(losses: Iterable[float], guard: Guard | None = None) -> int | None:
    """The first step after which the alarm goes off."""
    guard = guard or Guard()
    for step, loss in enumerate(losses):
        guard = guard.observe(float(loss))
        if guard.alarmed:
            return step
    return None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2])
def test_noise_alone_never_rings_the_alarm(seed: int, sigma: float) -> None:
    falling = 1 / (1 + np.arange(STEPS) / 30) ** 0.4
    assert alarm_step(noise(seed, sigma)) is None
    assert alarm_step(falling * noise(seed, sigma)) is None


@pytest.mark.parametrize(("growth", "sigma", "within"), [(0.01, 0.02, 20), (0.01, 0.1, 50), (0.05, 0.2, 35)])
@pytest.mark.parametrize("seed", range(5))
def test_a_rising_loss_rings_it_within_a_few_steps(growth: float, sigma: float, within: int, seed: int) -> None:
    rise = (1 + growth) ** np.maximum(0, np.arange(STEPS) - 1000)
    found = alarm_step((rise * noise(seed, sigma))[:1200])
    assert found is not None
    assert 1000 < found <= 1000 + within


def test_the_scale_of_the_loss_does_not_matter() -> None:
    rise = np.concatenate([np.ones(300), 1.05 ** np.arange(60)]) * noise(0, 0.1)[:360]
    assert alarm_step(rise) == alarm_step(1024 * rise) is not None


def test_the_guard_is_what_it_was_told_and_can_be_written_down() -> None:
    losses = noise(3, 0.1)[:300]
    straight = written = Guard()
    for step, loss in enumerate(losses):
        straight, written = straight.observe(loss), Guard(**asdict(written)).observe(loss)
        if step % 70 == 50:
            straight, written = straight.lean(step), written.lean(step)
        if step % 70 == 60:
            straight, written = straight.trust_in(step), written.trust_in(step)
    assert straight == written
    assert straight.actions == 4
    assert straight.base_steps == 4 * 10


@pytest.mark.parametrize(
    ("losses", "trust", "learned", "base", "verdict"),
    [
        (100, 1.0, 0.9, None, True),  # it lowers its own loss: no need to ask the base
        (100, 1.0, 1.1, None, False),
        (100, 1.0, 1.1, 1.2, True),  # it does not, but less badly than the base
        (100, 1.0, 1.1, 1.0, False),
        (0, 1.0, 0.9, None, False),  # early on the base is always asked
        (0, 1.0, 0.9, 0.7, True),
        (0, 1.0, 0.95, 0.7, False),
        (0, 1.0, 0.999, 1.3, True),
        (100, 0.0, 0.9, None, False),  # trust once lost has to be earned
        (100, 0.0, 0.9, 0.8, False),
        (100, 0.0, 0.8, 0.8, True),
        (100, 1.0, math.nan, None, False),
        (100, 1.0, math.nan, 2.0, False),
    ],
)
def test_verdicts_of_trials(losses: int, trust: float, learned: float, base: float | None, verdict: bool) -> None:
    assert Guard(trust=trust, losses=losses).passes(1.0, learned, base) is verdict


def test_trials_are_rare() -> None:
    trusted, distrusted, counts = Guard(), Guard().lean(0), [0, 0]
    for step in range(1000):
        if step == trusted.trial_step:
            trusted, counts[0] = trusted.trust_in(step), counts[0] + 1
        if step == distrusted.trial_step:
            distrusted, counts[1] = distrusted.lean(step), counts[1] + 1
    assert counts == [11, 7]
    assert distrusted.actions == 1  # it was withdrawn once, and never given


def test_no_alarm_without_trust_and_none_at_once_when_it_is_given_again() -> None:
    guard = Guard()
    for loss in [1.0] * 100 + [3.0] * 10:
        guard = guard.observe(loss)
    assert guard.alarmed
    guard = guard.lean(110)
    for _ in range(50):
        guard = guard.observe(3.0)
        assert not guard.alarmed
    guard = guard.trust_in(200)
    assert alarm_step([3.0] * 100, guard) is None
    assert alarm_step([3.0] * 50 + [30.0] * 50, guard) is not None


def test_two_looks_in_a_row_at_which_the_probe_loss_rose_ring_it_too() -> None:
    guard, rings = Guard(), []
    for before, after in pairwise([math.inf, 3.0, 2.0, 2.1, 1.5, 1.6, 1.6, 1.7, 1.8]):
        guard = guard.look(before, after)
        rings.append(guard.alarmed)
    assert rings == [False] * 7 + [True]
    assert not guard.lean(80).alarmed
    assert not guard.lean(80).trust_in(160).alarmed


def gain(untrained_rule: bool = False) -> LearnedGain:
    one = LearnedGain(LearnedRule(RATES, SCHEDULE, damping=0.2) if untrained_rule else trained(), every=2).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator))
    return one


def updates(optimizer: SceneOptimizer, dtype: torch.dtype, trust: float | None) -> list[GaussianScene]:
    """Five updates; with ``trust``, given at each step."""
    scene, found = random_scene(N, dtype=dtype), []
    state = optimizer.init(scene)
    for step in range(5):
        ctx: StepContext = context(scene, step)
        ctx = ctx if trust is None else replace(ctx, trust=trust)
        update, state = optimizer.update(random_scene(N, seed=step + 1, dtype=dtype), state, scene, ctx)
        found.append(update)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimizer", [trained(), gain(), gain(untrained_rule=True)])
def test_trust_0_is_the_base_and_trust_1_the_optimizer_to_the_bit(
    optimizer: LearnedRule | LearnedGain, dtype: torch.dtype
) -> None:
    base = Adam(RATES, SCHEDULE, damping=0.2)
    for ours, theirs in (
        (updates(optimizer, dtype, 0.0), updates(base, dtype, None)),
        (updates(optimizer, dtype, 1.0), updates(optimizer, dtype, None)),
    ):
        for one, two in zip(ours, theirs, strict=True):
            for name, tensor in one.items():
                assert torch.equal(tensor, getattr(two, name)), name


def test_trust_between_scales_weights_and_logarithms_of_steps() -> None:
    rule, scene = trained(), random_scene(N)
    whole, half = (rule.constants(replace(context(scene, 7), trust=trust)) for trust in (1.0, 0.5))
    torch.testing.assert_close(half.factor, whole.factor.sqrt())
    torch.testing.assert_close(half.weights, whole.weights / 2)
    torch.testing.assert_close(half.powers, whole.powers / 2)
