"""The head for precisions: untrained it is a constant share of the curvature, and units do not matter to it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learn2splat import native
from learn2splat.data.base import SceneData
from learn2splat.evidence import Evidence, evidence
from learn2splat.losses import PhotometricLoss
from learn2splat.predict.uncertainty import FEATURES, GROUPS, LEAST, MOST, UncertaintyHead, by_group
from learn2splat.render.cpu import CpuRenderer
from learn2splat.residuals import RootPhotometric, SquaredError
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from tests.conftest import random_scene, ring_cameras

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
VIEWS = [0, 1, 2]


def capture(unit: float = 1.0) -> tuple[SceneLoss, GaussianScene]:
    """Three small views of four Gaussians, one of them out of sight, in ``unit`` per metre."""
    cameras = ring_cameras(3, 10, 8, dtype=torch.float32)
    poses = cameras.cam_from_world.clone()
    poses[:, :3, 3] *= unit
    cameras = replace(cameras, cam_from_world=poses)
    photos = list(torch.randint(256, (3, 8, 10, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
    scene = random_scene(4, degree=1, dtype=torch.float32)
    means = scene.means.clone()
    means[3] = torch.tensor([0.0, 50.0, 0.0])
    shift = torch.log(torch.tensor(unit, dtype=torch.float32))
    scene = replace(scene, means=unit * means, log_scales=scene.log_scales + shift)
    data = SceneData("three", cameras, photos, ["0", "1", "2"], None, VIEWS, [])
    return SceneLoss(data, CpuRenderer(), PhotometricLoss()), scene


@pytest.fixture(scope="module")
def seen() -> Evidence:
    loss, scene = capture()
    return evidence(loss, SquaredError(), scene, VIEWS)


def test_it_tells_how_many_views_see_a_gaussian(seen: Evidence) -> None:
    assert seen.features.shape == (4, FEATURES)
    assert bool(seen.features.isfinite().all())
    assert float(seen.views[3]) == 0
    assert bool((seen.views[:3] >= 1).all())
    assert bool((seen.views <= 3 + 1e-4).all())
    loss, scene = capture()
    alone = evidence(loss, SquaredError(), scene, [1])
    torch.testing.assert_close(
        alone.views[alone.views > 0], torch.ones(int((alone.views > 0).sum()), dtype=torch.float32)
    )


def test_the_unit_of_length_does_not_matter(seen: Evidence) -> None:
    loss, scene = capture(unit=100.0)
    other = evidence(loss, SquaredError(), scene, VIEWS)
    torch.testing.assert_close(other.features, seen.features, rtol=1e-3, atol=1e-4)
    assert float(other.curvature[0]) == pytest.approx(float(seen.curvature[0]) / 100.0**2, rel=1e-3)
    torch.testing.assert_close(other.curvature[1:], seen.curvature[1:], rtol=1e-3, atol=1e-9)


def test_untrained_it_is_a_share_of_the_curvature_of_the_loss_at_hand(seen: Evidence) -> None:
    scene = capture()[1]
    head = UncertaintyHead(start=0.5)
    precision = head(seen.features, seen.curvature).scene(scene)
    for number, part in enumerate(by_group(precision)):
        torch.testing.assert_close(part, torch.full_like(part, 0.5 * float(seen.curvature[number])))
    loss, scene = capture()
    other = evidence(loss, RootPhotometric(PhotometricLoss(0.0)), scene, VIEWS)
    assert bool((other.curvature > seen.curvature)[:5].all())


def test_precisions_are_bounded_and_belong_to_their_gaussians(seen: Evidence) -> None:
    scene, order = capture()[1], torch.tensor([2, 0, 3, 1])
    torch.manual_seed(0)
    head = UncertaintyHead()
    torch.nn.init.normal_(head.layers[-1].weight, std=100.0)  # type: ignore[arg-type]
    straight = head(seen.features, seen.curvature)
    torch.testing.assert_close(head(seen.features[order], seen.curvature).by_group, straight.by_group[order])
    relative = straight.by_group / seen.curvature
    assert bool((relative >= LEAST * (1 - 1e-5)).all())
    assert bool((relative <= 1.001 * MOST).all())
    assert {name: tensor.shape for name, tensor in straight.scene(scene).items()} == {
        name: tensor.shape for name, tensor in scene.items()
    }
    assert straight.by_group.shape == (4, len(GROUPS))
    with torch.no_grad():
        head.layers[-1].weight.zero_()  # type: ignore[operator, union-attr]
        head.layers[-1].bias.fill_(math.log(2 * MOST))  # type: ignore[operator, union-attr]
    beyond = head(seen.features, seen.curvature).by_group
    (column,) = torch.autograd.grad(beyond.log().sum(), head.layers[-1].bias)  # type: ignore[arg-type]
    assert bool((column > 1e-3).all())  # it finds the way back
    with pytest.raises(ValueError, match="start is 0"):
        UncertaintyHead(start=0.0)
