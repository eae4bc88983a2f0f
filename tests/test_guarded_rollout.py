"""The inner loop with its guard: bad weights cost little, good ones and conventional optimizers nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat.data.views import RandomViews
from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.densify.base import Growth
from learn2splat.densify.mcmc import Mcmc
from learn2splat.densify.schedule import Refinements
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.guard import RISES
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.render.auto import auto_renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState
from learn2splat.run_folder import RunFolder
from learn2splat.scene_loss import SceneLoss
from tests.test_rollout import assert_equal, capture, fast_adam, start_scene

STEPS = 60
DATA = capture()
RATES, SCHEDULE = GroupRates(means=0.5, means_unit="footprint"), PowerDecay(scale=5.0)


def rule(kind: str) -> LearnedRule:
    """A rule on `fast_adam`."""
    one = LearnedRule(RATES, SCHEDULE, knots=(0, 10, 50)).eval()
    with torch.no_grad():
        if kind == "long steps":
            one.log_step[:, :3] = 2.0
        if kind == "uphill":
            one.weight[:, :, :3] = -1.0
        if kind == "uphill later":
            one.weight[:, :, 2] = -2.0
        if kind == "not a number":
            one.weight[:, :, 1] = float("nan")
        if kind == "cautious":
            one.log_step[:, :3] = -0.3
    return one


def rollout(
    optimizer: SceneOptimizer, guarded: bool = True, probe: tuple[int, ...] = (), growth: Growth = Growth()
) -> Rollout:
    loss = SceneLoss(DATA, auto_renderer(), PhotometricLoss())
    train = [view for view in DATA.train if view not in probe]
    sampler = RandomViews(DATA.cameras, train, batch=2, seed=3)
    state = RolloutState.start(start_scene(), optimizer, densifier=growth.densifier)
    return Rollout(loss, train, optimizer, sampler, state, probe=probe, guarded=guarded, growth=growth)


def final_loss(run: Rollout, steps: int = STEPS) -> float:
    """On all training views, of the scene to keep."""
    list(run.run(steps))
    assert run.outcome().kind is OutcomeKind.OK
    return run.scene_loss.value(run.outcome().scene, DATA.train)


@pytest.mark.parametrize("probe", [(), (3,)])
@pytest.mark.parametrize("kind", ["long steps", "uphill", "uphill later", "not a number"])
def test_bad_weights_end_close_to_the_base(kind: str, probe: tuple[int, ...]) -> None:
    base = final_loss(rollout(fast_adam(), probe=probe))
    run = rollout(rule(kind), probe=probe)
    assert final_loss(run) < 1.35 * base
    assert 1 <= run.state.guard.actions <= 5
    assert run.state.guard.base_steps > STEPS / 2
    unguarded = rollout(rule(kind), guarded=False)
    list(unguarded.run(STEPS))
    assert unguarded.scene_loss.value(unguarded.outcome().scene, DATA.train) > 2 * base


@pytest.mark.parametrize("optimizer", [fast_adam(), rule("untrained"), rule("cautious")])
def test_where_nothing_is_wrong_the_guard_changes_nothing(optimizer: SceneOptimizer) -> None:
    with_guard, without = rollout(optimizer), rollout(optimizer, guarded=False)
    assert final_loss(with_guard) == final_loss(without)
    assert_equal(with_guard.state.scene, without.state.scene)
    assert with_guard.state.guard.actions == with_guard.state.guard.base_steps == 0
    assert with_guard.outcome().which == "averaged"


def test_a_conventional_optimizer_is_neither_tried_nor_sent_back() -> None:
    run = rollout(Adam(GroupRates(means=5.0, means_unit="footprint"), PowerDecay(scale=100.0)))
    assert final_loss(run) < run.scene_loss.value(run.state.output, DATA.train)
    assert run.outcome().which == "best"  # but that it fails is seen
    assert (run.state.guard.seconds, run.state.guard.trust, run.state.guard.actions) == (0, 1, 0)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_guarded_run_does_not_end_below_its_best_scene(guarded: bool) -> None:
    run = rollout(fast_adam(), guarded)
    list(run.run(40))
    for excess, which in ((0.9, "averaged"), (1.1, "best" if guarded else "averaged")):
        run.state = replace(run.state, running_loss=run.state.best_loss * (1 + excess * (run.state.guard.margin - 1)))
        assert run.outcome().kind is OutcomeKind.OK
        assert run.outcome().which == which
        assert_equal(run.outcome().scene, run.state.best if which == "best" else run.state.output)


@pytest.mark.parametrize("kind", ["uphill later", "long steps"])
@pytest.mark.parametrize("cut", [1, 12, 25, 40])
def test_resumed_in_the_middle_of_a_lean_it_is_the_same_to_the_bit(kind: str, cut: int, tmp_path: Path) -> None:
    straight, first, second = (rollout(rule(kind)) for _ in range(3))
    list(straight.run(STEPS))
    list(first.run(cut))
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(first.state, first.sampler)
    second.state = folder.load_checkpoint(second.sampler)
    list(second.run(STEPS))
    assert straight.state.guard.actions > 0
    assert replace(straight.state.guard, seconds=0.0) == replace(second.state.guard, seconds=0.0)
    assert_equal(straight.state.scene, second.state.scene)
    assert_equal(straight.outcome().scene, second.outcome().scene)


def test_going_back_starts_afresh_from_the_best_scene() -> None:
    run = rollout(rule("cautious"))
    list(run.run(30))
    gone_back = run.state.gone_back(run.optimizer, run.growth.densifier, by_loss=True)
    assert_equal(gone_back.scene, run.state.best)
    assert_equal(gone_back.output, run.state.best)
    assert not any(rows.any() for rows in gone_back.optimizer.rows.values())
    assert not gone_back.optimizer.shared["products"].any()
    assert gone_back.running_loss == run.state.best_loss
    assert gone_back.step == 30
    assert gone_back.neighbours is None  # of another scene


@pytest.mark.parametrize("probe", [(), (3,)])
def test_an_alarm_sends_the_run_back_and_it_goes_on_with_the_base(probe: tuple[int, ...]) -> None:
    run = rollout(rule("cautious"), probe=probe)
    list(run.run(30))
    risen = replace(run.state.guard, trust=1.0, trial_step=STEPS, losses=30, lowest=run.state.guard.mean / 10)
    run.state = replace(run.state, guard=replace(risen, rises=0, base_steps=0))
    assert len(list(run.run(31))) == 1
    assert_equal(run.state.scene, run.state.best)
    assert run.state.guard.trust == 0
    assert len(list(run.run(STEPS))) == STEPS - 31
    assert run.outcome().kind is OutcomeKind.OK
    assert run.state.guard.base_steps == STEPS - 31


def test_a_trial_costs_time_that_is_accounted_for() -> None:
    run = rollout(rule("cautious"))
    list(run.run(4))
    assert 0 < run.state.guard.seconds < run.state.seconds_update


OFTEN, NEVER = Refinements(start=0, every=4), Refinements(every=30_000)
DENSIFIERS = {
    "default": AdaptiveDensityControl(grow_gradient=2e-3, grow_scale=0.02, reset_every=22, refinements=OFTEN),
    "mcmc": Mcmc(min_opacity=0.1, growth=1.2, refinements=OFTEN),
}


@pytest.mark.parametrize("densify", DENSIFIERS)
@pytest.mark.parametrize("cut", [12, 25])
def test_it_goes_back_among_births_and_resumes_to_the_bit(densify: str, cut: int, tmp_path: Path) -> None:
    growth = Growth(DENSIFIERS[densify], max_gaussians=60, seed=5)
    straight, first, second = (rollout(rule("long steps"), growth=growth) for _ in range(3))
    for run in (straight, first):
        list(run.run(10))
        gone_back = run.state.gone_back(run.optimizer, growth.densifier, by_loss=True)
        assert_equal(gone_back.scene, run.state.best)
        assert {len(rows) for rows in gone_back.statistics.values()} <= {len(run.state.best)}
        assert not any(rows.any() for rows in gone_back.statistics.values())
        run.state = gone_back
    list(straight.run(40))
    list(first.run(cut))
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(first.state, first.sampler)
    second.state = folder.load_checkpoint(second.sampler)
    list(second.run(40))
    assert straight.outcome().kind is OutcomeKind.OK
    assert straight.state.guard.actions > 0
    assert replace(straight.state.guard, seconds=0.0) == replace(second.state.guard, seconds=0.0)
    assert_equal(straight.state.scene, second.state.scene)
    assert_equal(straight.outcome().scene, second.outcome().scene)
    for name, rows in straight.state.statistics.items():
        assert torch.equal(rows, second.state.statistics[name]), name


@pytest.mark.parametrize("probe", [(), (3,)])
def test_a_reset_of_the_opacities_rings_no_alarm_and_is_no_rise(probe: tuple[int, ...]) -> None:
    """The loss jumps; without the reset's new beginning that would be blamed on the optimizer."""
    growth = Growth(AdaptiveDensityControl(reset_every=40, refinements=NEVER))
    run = rollout(rule("untrained"), probe=probe, growth=growth)
    list(run.run(39))
    trusted = replace(run.state.guard, trust=1.0, trial_step=STEPS, rises=RISES - 1 if probe else 0, actions=0)
    before = run.state = replace(run.state, guard=trusted)
    run.step()
    assert run.state.guard.losses == 0
    assert not run.state.has_risen
    run.step()
    assert run.state.running_loss > before.guard.margin * before.running_loss
    list(run.run(70))
    assert run.outcome().kind is OutcomeKind.OK
    assert (run.state.guard.actions, run.state.guard.trust) == (0, 1)
    assert not run.state.has_risen


def test_trials_use_the_penalised_gradient() -> None:
    """At a trial the untrained rule is `fast_adam`, which gets the densifier's penalties too."""
    growth = Growth(Mcmc(opacity_penalty=1.0, refinements=NEVER))
    ruled, plain = (rollout(by, growth=growth) for by in (rule("untrained"), fast_adam()))
    unpenalised = rollout(fast_adam())
    for run in (ruled, plain, unpenalised):
        list(run.run(3))
    assert_equal(ruled.state.scene, plain.state.scene)
    assert not torch.equal(plain.state.scene.logit_opacities, unpenalised.state.scene.logit_opacities)
