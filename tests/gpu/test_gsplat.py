"""gsplat on a GPU against the float64 reference: pictures and every gradient, where no decision is within rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from learn2splat.cameras import Cameras
from learn2splat.render.base import GradientRequest, RenderSettings
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.gsplat import GsplatRenderer, why_unavailable
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from tests.render.catalogue import SCENES, needles, ordinary
from tests.render.test_cpu_rasterizer import assert_close, assert_scene_close, cotangents, to32, to64, undecided

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())]

EVERYTHING = GradientRequest(means2d_px=True, view_squares=True, per_view=True)
IMAGE_TOLERANCE = 2e-4
"""Its exponentials and reciprocals are the fast ones."""
GRADIENT_TOLERANCE = 2e-3
NEEDLE_TOLERANCE = 2e-2
BAND = 1e-3
"""Relative distance from a threshold within which a decision may fall otherwise."""

Maker = Callable[[], tuple[GaussianScene, Cameras]]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("make", SCENES, ids=lambda make: make.__name__)
def test_pictures_and_all_gradients_are_those_of_the_reference(make: Maker, degree: int) -> None:
    scene, cameras = to32(*make())
    scene64, cameras64 = to64(scene, cameras)
    background = torch.tensor([0.2, 0.4, 0.6])
    output, pull_back = GsplatRenderer().linearise(
        scene.to("cuda"), cameras.to("cuda"), background=background.cuda(), sh_degree=degree, depth=True
    )
    expected, reference = ReferenceRenderer().linearise(
        scene64, cameras64, background=background.double(), sh_degree=degree, depth=True
    )
    excluded = undecided(scene, cameras, RenderSettings(), BAND)
    assert (~excluded).float().mean() > 0.7
    for name in ("image", "alpha", "depth"):
        mine, theirs = getattr(output, name).cpu().double(), getattr(expected, name)
        error, size = float((mine - theirs)[~excluded].abs().max()), max(1.0, float(theirs.abs().max()))
        assert error <= IMAGE_TOLERANCE * size, f"{name}: {error:.2e} of {size:.2e}"

    image, alpha, depth = cotangents(cameras)
    image, alpha, depth = image * ~excluded[..., None], alpha * ~excluded, depth * ~excluded
    mine = pull_back(image.cuda(), alpha.cuda(), depth.cuda(), EVERYTHING)
    theirs = reference(image.double(), alpha.double(), depth.double(), EVERYTHING)
    tolerance = NEEDLE_TOLERANCE if make is needles else GRADIENT_TOLERANCE
    assert_scene_close(mine.scene.to("cpu"), theirs.scene, tolerance, "sum")
    assert mine.view_squares is not None
    assert theirs.view_squares is not None
    assert_scene_close(mine.view_squares.to("cpu"), theirs.view_squares, 2 * tolerance, "view_squares")
    assert mine.per_view is not None
    assert theirs.per_view is not None
    for view, (one, other) in enumerate(zip(mine.per_view, theirs.per_view, strict=True)):
        assert_scene_close(one.to("cpu"), other, tolerance, f"view {view}")
    assert mine.means2d_px is not None
    assert theirs.means2d_px is not None
    assert_close(mine.means2d_px.cpu(), theirs.means2d_px, tolerance, "means2d_px")


def test_it_shows_what_the_cpu_rasteriser_shows() -> None:
    scene, cameras = to32(*ordinary())
    ours = CpuRenderer().render(scene, cameras, depth=True)
    theirs = GsplatRenderer().render(scene.to("cuda"), cameras.to("cuda"), depth=True)
    decided = ~undecided(scene, cameras, RenderSettings(), BAND)
    assert float((ours.image - theirs.image.cpu())[decided].abs().max()) < IMAGE_TOLERANCE
    assert torch.equal(ours.visible, theirs.visible.cpu())
