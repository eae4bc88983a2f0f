"""The proximal term: its model, its place in the inner loop, and what a run may ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat import native
from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.densify.base import Growth
from learn2splat.errors import UserError
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.pretrained import UNCERTAINTY, save_pretrained
from learn2splat.optim.lm import LevenbergMarquardt
from learn2splat.predict.base import Prediction
from learn2splat.predict.saved import save_prediction
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.proximal import Proximal, ProximalModel
from learn2splat.render.cpu import CpuRenderer
from learn2splat.rollout import Rollout
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix
from learn2splat.scene_loss import SceneLoss
from learn2splat.uncertainty import chosen_proximal
from tests.conftest import random_scene
from tests.optim.bowl import Bowl
from tests.test_rollout import assert_equal, capture, fast_adam, rollout, start_scene

needs_library = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")


def constant(scene: GaussianScene, weight: float) -> GaussianScene:
    return scene.map(lambda t: torch.full_like(t, weight))


def test_the_model_is_that_of_the_sum() -> None:
    """Of a loss that is its own model, so that value, slope and curvature must agree everywhere."""
    scene, anchor, way = (random_scene(6, seed=seed, degree=0) for seed in (0, 4, 5))
    bowl = Bowl(scene, random_scene(6, seed=1, degree=0), random_scene(6, seed=2, degree=0).map(torch.square))
    proximal = Proximal(anchor, random_scene(6, seed=3, degree=0).map(torch.square))
    model = ProximalModel(bowl, proximal, scene)
    v, hv = as_matrix(way), as_matrix(model.product(way))
    expected = model.value + float((v * as_matrix(model.gradient)).sum() + 0.5 * (v * hv).sum())
    assert model.value_at(scene.map(torch.add, way)) == pytest.approx(expected, rel=1e-12)
    added = as_matrix(model.diagonal()) - as_matrix(bowl.diagonal())
    torch.testing.assert_close(added, as_matrix(proximal.precision))
    diagonal, blocks = model.blocks()
    torch.testing.assert_close(as_matrix(diagonal), as_matrix(bowl.blocks()[0]) + as_matrix(proximal.precision))
    torch.testing.assert_close(blocks - bowl.blocks()[1], torch.diag_embed(added[:, :10]))


def test_a_precision_must_fit_and_must_not_push() -> None:
    scene = random_scene(5, degree=0)
    with pytest.raises(ValueError, match=r"precision\.means has shape \(4, 3\)"):
        Proximal(scene, constant(scene.take(torch.arange(4)), 1.0))
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"precision\.sh holds"):
            Proximal(scene, replace(constant(scene, 1.0), sh=torch.full_like(scene.sh, bad)))


def held_back(optimizer: SceneOptimizer, weight: float, steps: int) -> Rollout:
    run = rollout(optimizer, average=False)
    if native.library() is not None:
        run.scene_loss = SceneLoss(capture(), CpuRenderer(), PhotometricLoss())
    run.proximal = Proximal(start_scene(), constant(start_scene(), weight))
    list(run.run(steps))
    return run


def test_no_precision_changes_no_bit_of_a_run() -> None:
    plain = held_back(fast_adam(), 0.0, 0)
    plain.proximal = None
    list(plain.run(4))
    assert_equal(held_back(fast_adam(), 0.0, 4).state.scene, plain.state.scene)


@pytest.mark.parametrize("make", [fast_adam, pytest.param(LevenbergMarquardt, marks=needs_library)])
def test_more_precision_leaves_the_scene_closer_to_where_it_began(make: type) -> None:
    """By gradients as by quadratic models."""

    def distance(weight: float) -> float:
        return float((as_matrix(held_back(make(), weight, 3).state.scene) - as_matrix(start_scene())).norm())

    free, held = distance(0.0), distance(1e2)
    assert 0 < held < (0.8 if make is fast_adam else 1e-3) * free


def test_what_cannot_be_held_back_is_refused() -> None:
    run = rollout(fast_adam())
    proximal = Proximal(start_scene(), constant(start_scene(), 1.0))
    with pytest.raises(UserError, match="densify=none"):
        Rollout(
            run.scene_loss, run.train, fast_adam(), run.sampler, run.state,
            growth=Growth(AdaptiveDensityControl()), proximal=proximal,
        )  # fmt: skip


@needs_library
def test_a_run_takes_its_precision_from_a_head_or_from_a_prediction(tmp_path: Path) -> None:
    scene, loss = start_scene(), SceneLoss(capture(), CpuRenderer(), PhotometricLoss())

    def asked(kind: str, init: str = "sfm") -> Proximal | None:
        return chosen_proximal(kind, init, loss, scene, loss.data.train)

    assert asked("off") is None
    architecture = {"_target_": "learn2splat.predict.uncertainty.UncertaintyHead", "start": 2.0}
    save_pretrained(UncertaintyHead(start=2.0), architecture, tmp_path / "head", {}, UNCERTAINTY)
    by_head = asked(str(tmp_path / "head"))
    assert by_head is not None
    assert_equal(by_head.anchor, scene)
    assert all(bool((weights > 0).all()) for weights in by_head.precision.tensors())
    save_prediction(Prediction(scene, precision=constant(scene, 0.5)), tmp_path / "said")
    for kind, init in ((str(tmp_path / "said"), "sfm"), ("predict", f"predict:{tmp_path / 'said'}")):
        said = asked(kind, init)
        assert said is not None
        assert_equal(said.precision, constant(scene, 0.5))
    save_prediction(Prediction(scene), tmp_path / "silent")
    for kind, init in ((str(tmp_path / "silent"), "sfm"), ("predict", f"predict:{tmp_path / 'silent'}")):
        with pytest.raises(UserError, match="it predicts no uncertainty; train a head"):
            asked(kind, init)
    with pytest.raises(UserError, match="needs --init predict"):
        asked("predict")
    with pytest.raises(UserError, match="no uncertainty 'nowhere'"):
        asked("nowhere")
