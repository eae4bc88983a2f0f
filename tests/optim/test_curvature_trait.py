"""Curvature as a trait of the learned rule: its reduction, its invariances, and when it looks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learn2splat import native
from learn2splat.config import build, compose
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import StepContext, apply_update
from learn2splat.optim.learned.curvature import CurvatureTrait, remembered, stiffness
from learn2splat.optim.learned.moments import GROUPS
from learn2splat.render.cpu import CpuRenderer
from learn2splat.rollout import Rollout
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from tests.conftest import random_scene
from tests.optim.bowl import Bowl
from tests.optim.test_learned_rule import context, trained
from tests.test_rollout import assert_equal, capture, rollout, start_scene

COUNT = 12


def curved(power: float, every: int = 8) -> CurvatureTrait:
    one = CurvatureTrait(trained(), every).eval()
    torch.nn.init.constant_(one.power, power)
    return one


class Counted(Bowl):
    """A bowl that says how often its curvature was asked for."""

    looks = 0

    def diagonal(self) -> GaussianScene:
        Counted.looks += 1
        return super().diagonal()


def run(optimizer: CurvatureTrait, scene: GaussianScene, unit: float = 1.0, loss_unit: float = 1.0) -> GaussianScene:
    """Five updates in a world of so many units per metre and with a loss of so many units."""
    scale = torch.tensor(unit, dtype=scene.means.dtype)
    scene = replace(scene, means=unit * scene.means, log_scales=scene.log_scales + scale.log())
    state = optimizer.init(scene)
    for step in range(5):
        grads = random_scene(COUNT, seed=step + 1).map(lambda t: loss_unit * t)
        h = random_scene(COUNT, seed=step + 50).map(lambda t: loss_unit * t.square())
        grads, h = replace(grads, means=grads.means / unit), replace(h, means=h.means / unit**2)
        seen = context(step, COUNT)
        assert seen.pixel_footprint_world is not None
        seen = replace(seen, model=Counted(scene, grads, h), pixel_footprint_world=unit * seen.pixel_footprint_world)
        update, state = optimizer.update(grads, state, scene, seen)
        scene = apply_update(scene, update)
    return replace(scene, means=scene.means / unit, log_scales=scene.log_scales - scale.log())


def test_untrained_it_is_the_rule_to_the_bit() -> None:
    one, rule = curved(0.0), trained()
    scene, grads = random_scene(COUNT), random_scene(COUNT, seed=1)
    given: StepContext = replace(context(0, COUNT), model=Bowl(scene, grads, random_scene(COUNT).map(torch.square)))
    assert_equal(
        one.update(grads, one.init(scene), scene, given)[0], rule.update(grads, rule.init(scene), scene, given)[0]
    )


def test_units_of_the_world_and_of_the_loss_do_not_matter() -> None:
    scene = random_scene(COUNT)
    expected = run(curved(-0.4), scene)
    assert float((expected.means - run(curved(0.0), scene).means).abs().max()) > 1e-3
    for unit, loss_unit in ((100.0, 1.0), (1.0, 1e3)):
        for name, tensor in run(curved(-0.4), scene, unit, loss_unit).items():
            torch.testing.assert_close(tensor, getattr(expected, name), rtol=1e-7, atol=1e-9)


def test_it_looks_every_few_steps_and_not_in_between() -> None:
    for every, looks in ((1, 5), (4, 2), (8, 1)):
        Counted.looks = 0
        run(curved(0.3, every), random_scene(COUNT))
        assert Counted.looks == looks
    with pytest.raises(ValueError, match="every=0"):
        curved(0.0, every=0)


def test_a_power_of_the_curvature_scales_the_steps_of_what_is_known() -> None:
    h = torch.tensor([[1.0], [4.0], [0.0]]).expand(3, len(GROUPS))
    trait = stiffness(h)
    torch.testing.assert_close(trait[:, 0], torch.tensor([-1.0, 1.0, 0.0]) * torch.tensor(2.0).log())
    newest = torch.tensor([[0.0], [8.0], [3.0]]).expand(3, len(GROUPS))
    torch.testing.assert_close(remembered(h, newest)[:, 0], torch.tensor([1.0, 6.0, 3.0]))


def test_each_direction_names_a_parameter_of_its_own() -> None:
    one = curved(0.0)
    parameters = dict(one.named_parameters())
    directions = one.coarse(8)
    assert len(directions) == 2 * len(GROUPS)
    for direction in directions:
        for name, unit in direction.items():
            assert unit.shape == parameters[name].shape


@pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
def test_the_inner_loop_gives_it_the_curvature() -> None:
    optimizer = build(compose("meta_train", ["trainee=learned-rule-curvature"]).trainee).eval()
    torch.nn.init.constant_(optimizer.power, -0.3)
    made: Rollout = rollout(optimizer)
    made.scene_loss = SceneLoss(capture(), CpuRenderer(), PhotometricLoss())
    losses = [record.loss for record in made.run(20)]
    assert losses[-1] < losses[0]
    assert bool((made.state.optimizer.rows["curvature"][: len(start_scene())] > 0).any())
