"""Meta-training while Gaussians are born and die: credit against finite differences, lives through the buffer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.densify.base import Densifier, Growth
from learn2splat.densify.mcmc import Mcmc
from learn2splat.densify.schedule import Refinements
from learn2splat.meta.learner import roll_out, run_window
from learn2splat.meta.life import Life, begin, from_entry, to_entry
from learn2splat.meta.objective import AveragedTrajectory, Greedy
from learn2splat.meta.tape import Taped, TapedDensifier
from learn2splat.meta.tasks import draw_task
from learn2splat.optim.learned.moments import GROUPS
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.render.base import GradientRequest
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from tests.meta.test_training import RANGES, assert_equal, assert_reached, life, rule
from tests.test_rollout import capture

REFINES = Refinements(start=0, every=1)
BIRTHS: dict[str, Densifier] = {
    "clone and split": AdaptiveDensityControl(grow_gradient=5e-3, grow_scale=0.05, refinements=REFINES),
    "reset": AdaptiveDensityControl(reset_every=1, reset_opacity=0.2, refinements=Refinements(every=30_000)),
    "all at once": AdaptiveDensityControl(
        grow_gradient=5e-3, grow_scale=0.05, prune_opacity=0.1, reset_opacity=0.2, reset_every=1, refinements=REFINES
    ),
    "relocate and add": Mcmc(min_opacity=0.1, growth=1.3, opacity_penalty=0.0, scale_penalty=0.0, refinements=REFINES),
    "relocate and add, penalised": Mcmc(
        min_opacity=0.1, growth=1.3, opacity_penalty=0.5, scale_penalty=0.5, refinements=REFINES
    ),
    "noise, penalised": Mcmc(opacity_penalty=0.5, scale_penalty=0.5, refinements=Refinements(every=30_000)),
}
CHANGE_NO_COUNT = {"reset", "noise, penalised"}
CASES = [
    (births, averaged, group)
    for births in BIRTHS
    for averaged in (True, False)
    for group in GROUPS
    if births != "noise, penalised" or group in ("means", "sh0", "shN")  # its length counts as constant
]


def life_with_births(densifier: Densifier, scale: float) -> Life:
    one = life(seed=3, scale=scale, dtype=torch.float64)
    scene = one.rollout.state.scene
    spread = torch.linspace(-3.0, 1.0, len(scene), dtype=torch.float64)
    longish = scene.log_scales + torch.tensor([0.4, 0.0, -0.4], dtype=torch.float64)
    turned = scene.quats + torch.linspace(-1.0, 1.0, scene.quats.numel(), dtype=torch.float64).view_as(scene.quats)
    scene = replace(scene, logit_opacities=spread, log_scales=longish, quats=turned)  # turning a ball changes nothing
    one.rollout.state = RolloutState.start(scene, one.rollout.optimizer, densifier=densifier)
    one.rollout.growth = Growth(densifier, seed=1)
    one.rollout.request = GradientRequest(means2d_px=True)
    return one


@pytest.mark.parametrize(("births", "averaged", "group"), CASES)
def test_credit_through_a_densification_is_the_derivative_of_the_held_out_loss(
    births: str, averaged: bool, group: str
) -> None:
    """One update, then births, deaths and a reset: the held-out loss of what came of it, by finite differences."""
    densifier, row, shift = BIRTHS[births], GROUPS.index(group), 0.02

    def outcome(one: Life) -> GaussianScene:
        return one.rollout.state.averaged if averaged else one.rollout.state.scene

    start = life_with_births(densifier, 1e-3)
    optimizer = start.rollout.optimizer
    assert isinstance(optimizer, LearnedRule)
    taped = Taped(optimizer.train())
    start.rollout.optimizer = taped
    start.rollout.growth = replace(start.rollout.growth, densifier=TapedDensifier(densifier, taped.tape))
    before = len(start.rollout.state.scene)
    with torch.enable_grad():
        start.rollout.step()
    assert len(taped.tape[0].births) == (births != "noise, penalised")
    assert (len(start.rollout.state.scene) == before) == (births in CHANGE_NO_COUNT)
    ahead = start.rollout.scene_loss.gradient(outcome(start), start.held).grads
    credit = taped.tape[0].before_births(ahead, averaged=averaged)
    sum((a * b).sum() for a, b in zip(taped.tape[0].update.tensors(), credit.tensors(), strict=True)).backward()  # type: ignore[union-attr]
    assert optimizer.log_step.grad is not None
    losses = []
    for change in (shift, -shift):
        again = life_with_births(densifier, 1e-3)
        with torch.no_grad():
            again.rollout.optimizer.log_step[row, :, 0] += change  # type: ignore[attr-defined]
        assert roll_out(again, 1)
        losses.append(again.rollout.scene_loss.gradient(outcome(again), again.held).loss)
    measured = (losses[0] - losses[1]) / (2 * shift)
    assert float(optimizer.log_step.grad[row, :, 0].sum()) == pytest.approx(measured, rel=2e-4, abs=0)


@pytest.mark.parametrize("objective", [AveragedTrajectory(), Greedy()])
@pytest.mark.parametrize("ahead", [0, 3])
def test_windows_with_births_reach_every_weight(objective: AveragedTrajectory | Greedy, ahead: int) -> None:
    one = life_with_births(BIRTHS["clone and split"], 1.0)
    optimizer = one.rollout.optimizer
    assert isinstance(optimizer, LearnedRule)
    optimizer.train()
    before = len(one.rollout.state.scene)
    result = run_window(one, 3, ahead, objective, 0.5, seed=1)
    assert not result.died
    assert len(one.rollout.state.scene) > before
    assert isinstance(one.rollout.growth.densifier, AdaptiveDensityControl)
    result.loss.backward()
    assert_reached(optimizer)


def test_densifying_lives_are_drawn_and_go_on_to_the_same_bits_through_an_entry() -> None:
    ranges = replace(RANGES, share_densify=1.0, share_sh_steps=1.0)
    found = set()
    for seed in range(8):
        task = draw_task(capture(), ranges, torch.Generator().manual_seed(seed))
        plain = draw_task(capture(), RANGES, torch.Generator().manual_seed(seed))
        assert_equal(task.initial, plain.initial)  # the other draws are not disturbed
        assert plain.densify == "none"
        found.add(task.densify)
        assert task.max_gaussians > len(task.initial)
    assert found == {"default", "mcmc"}
    one = begin(replace(task, densify="default"), rule(), ReferenceRenderer(), ends_at=60)
    assert one.rollout.growth.sh_every == 2
    assert roll_out(one, 9)
    assert float(one.rollout.state.statistics["views"].sum()) > 0
    two = from_entry(to_entry(one), rule(), ReferenceRenderer())
    assert two.rollout.growth.horizon == 60
    assert roll_out(one, 8)
    assert roll_out(two, 8)
    assert_equal(one.rollout.state.scene, two.rollout.state.scene)
    assert torch.equal(one.rollout.state.statistics["gradient"], two.rollout.state.statistics["gradient"])
