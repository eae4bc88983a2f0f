"""Levenberg-Marquardt: its limits are Newton and scaled descent, trust follows the loss, a step is worth many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learn2splat import native
from learn2splat.data.views import RandomViews
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import Need, SceneOptimizer, StepContext, as_rows, zeros_like
from learn2splat.optim.lm import RAISE, LevenbergMarquardt
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.pcg import dot
from learn2splat.render.base import Renderer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix, from_matrix
from learn2splat.scene_loss import SceneLoss
from learn2splat.scene_model import SceneModel, scene_model
from tests.conftest import random_scene
from tests.optim.bowl import Bowl
from tests.test_rollout import capture, start_scene


def bowl(error: float = 0.0) -> Bowl:
    scene, gradient = random_scene(6, degree=0), random_scene(6, seed=1, degree=0)
    return Bowl(scene, gradient, random_scene(6, seed=2, degree=0).map(lambda t: t.square() + 0.1), error)


def step(optimizer: LevenbergMarquardt, model: Bowl) -> tuple[GaussianScene, float]:
    """The update, and the damping after it."""
    visible = torch.ones(len(model.scene), dtype=torch.bool)
    context = StepContext(0, None, 4, 20, 1.0, visible, model.value, model=model)
    update, state = optimizer.update(model.gradient, optimizer.init(model.scene), model.scene, context)
    return update, float(state.shared["damping"])


@pytest.mark.parametrize("preconditioner", ["diagonal", "blocks"])
def test_without_damping_it_is_newtons_step(preconditioner: str) -> None:
    model = bowl()
    optimizer = LevenbergMarquardt(
        damping=1e-12, least_damping=1e-12, iterations=100, tolerance=1e-12, preconditioner=preconditioner
    )
    newton = -torch.linalg.solve(model.matrix(), as_matrix(model.gradient).flatten())
    torch.testing.assert_close(as_matrix(step(optimizer, model)[0]).flatten(), newton, rtol=1e-6, atol=1e-8)


def test_with_much_damping_it_is_descent_in_the_parameters_own_scale() -> None:
    model = bowl()
    optimizer = LevenbergMarquardt(damping=1e9, floor=1e-12)
    update, _ = step(optimizer, model)
    for name, moved in update.items():
        expected = -getattr(model.gradient, name) / (1e9 * getattr(model.diagonal(), name))
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=0)


def test_the_step_does_not_depend_on_units() -> None:
    """Means in centimetres instead of metres: the same means."""
    model, unit = bowl(), 100.0
    fine = replace(
        model,
        scene=replace(model.scene, means=unit * model.scene.means),
        gradient=replace(model.gradient, means=model.gradient.means / unit),
        curvature=replace(model.curvature, means=model.curvature.means / unit**2),
    )
    (one, _), (two, _) = step(LevenbergMarquardt(), model), step(LevenbergMarquardt(), fine)
    torch.testing.assert_close(unit * one.means, two.means)
    torch.testing.assert_close(one.sh, two.sh)


def test_a_step_that_raises_the_loss_is_not_taken_and_the_damping_rises() -> None:
    update, damping = step(LevenbergMarquardt(damping=1.0), bowl(error=1e6))
    assert all(bool((moved == 0).all()) for moved in update.tensors())
    assert damping == RAISE
    update, damping = step(LevenbergMarquardt(damping=1.0), bowl())
    assert damping == pytest.approx(1 / 3)
    assert bowl().value_at(bowl().scene.map(torch.add, update)) < bowl().value


def test_bad_settings_are_refused_by_name() -> None:
    for setting in (
        {"pixels": 0.0},
        {"residuals": "none"},
        {"preconditioner": "ilu"},
        {"memory": 1.0},
        {"damping": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(setting))):
            LevenbergMarquardt(**setting)  # type: ignore[arg-type]


def renderer() -> Renderer:
    return CpuRenderer() if native.library() is not None else ReferenceRenderer()


def test_the_model_of_a_scene_has_the_gradient_of_its_loss_and_is_symmetric() -> None:
    """In views of two sizes."""
    data = capture([(32, 24)] * 3 + [(16, 12)] * 3)
    loss, scene, views = SceneLoss(data, renderer(), PhotometricLoss()), start_scene(), [1, 2, 4]
    model = scene_model(loss, frozenset({Need.LOSS_MODEL}), scene, views)
    assert isinstance(model, SceneModel)
    expected = loss.gradient(scene, views)
    assert model.value == pytest.approx(expected.loss, rel=1e-6)
    assert model.value_at(scene) == pytest.approx(expected.loss, rel=1e-6)
    for name, tensor in expected.grads.items():
        torch.testing.assert_close(getattr(model.gradient, name), tensor, rtol=1e-4, atol=1e-8)
    ways = [random_scene(20, seed=seed, degree=0, dtype=torch.float32) for seed in (5, 6)]
    images = [model.product(way) for way in ways]
    one, two = (dot(as_matrix(ways[a]), as_matrix(images[b])) for a, b in ((0, 1), (1, 0)))
    assert one == pytest.approx(two, rel=1e-4)
    assert all(dot(as_matrix(way), as_matrix(image)) > 0 for way, image in zip(ways, images, strict=True))
    assert scene_model(loss, frozenset(), scene, views) is None


def losses(optimizer: SceneOptimizer, steps: int) -> list[float]:
    """Of all training views, before and after ``steps`` steps on two views each."""
    data = capture()
    loss = SceneLoss(data, renderer(), PhotometricLoss())
    sampler = RandomViews(cameras=data.cameras, views=list(data.train), batch=2, seed=3)
    state = RolloutState.start(start_scene(), optimizer, average=False)
    run = Rollout(loss, list(data.train), optimizer, sampler, state, horizon=steps)
    values = [loss.value(state.scene, data.train)]
    for _ in run.run(steps):
        pass
    return [*values, loss.value(run.state.scene, data.train)]


@pytest.mark.parametrize("residuals", ["photometric", "squared"])
def test_a_step_is_worth_more_than_one_of_adam(residuals: str) -> None:
    """From a part of the pixels, too."""
    adam = Adam(GroupRates(means=0.5, means_unit="footprint"), PowerDecay(scale=5.0))
    for pixels in (1.0, 0.6):
        before, after = losses(LevenbergMarquardt(residuals=residuals, pixels=pixels), 10)
        assert after < 0.5 * before
        assert after < losses(adam, 10)[1]


def test_curvature_is_remembered() -> None:
    """And fades by the memory per step where later batches do not see it."""
    model, optimizer = bowl(), LevenbergMarquardt(memory=0.5)
    blind = replace(model, curvature=zeros_like(model.scene), gradient=zeros_like(model.scene))
    visible = torch.ones(len(model.scene), dtype=torch.bool)
    state = optimizer.init(model.scene)
    for chosen in (model, blind, blind):
        context = StepContext(0, None, 4, 20, 1.0, visible, 1.0, model=chosen)
        _, state = optimizer.update(chosen.gradient, state, model.scene, context)
    expected = as_rows("curvature", model.diagonal().map(lambda t: 0.25 * t))
    for name, rows in expected.items():
        torch.testing.assert_close(state.rows[name], rows)


def test_a_matrix_is_a_scene_and_back() -> None:
    scene = random_scene(5, degree=2)
    for name, tensor in from_matrix(as_matrix(scene)).items():
        assert torch.equal(tensor, getattr(scene, name)), name
