"""Quadratic models from a share of the pixels: unbiased, one linear map per draw, and the whole model at share 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat import native
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import Need
from learn2splat.pcg import dot
from learn2splat.proximal import Proximal, ProximalModel
from learn2splat.render.base import Renderer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.matrix import as_matrix, from_matrix
from learn2splat.scene_loss import SceneLoss
from learn2splat.scene_model import SceneModel, drawn_tiles, scene_model
from tests.conftest import random_scene
from tests.test_rollout import capture, start_scene

VIEWS, TILES = [1, 3], 8
BOTH = pytest.mark.parametrize("need", [Need.SQUARED_ERROR_MODEL, Need.LOSS_MODEL])


def whole_model(need: Need) -> SceneModel:
    """On two views of 32 x 24 pixels: 2 x 2 tiles each."""
    renderer: Renderer = CpuRenderer() if native.library() is not None else ReferenceRenderer()
    loss = SceneLoss(capture(), renderer, PhotometricLoss())
    model = scene_model(loss, frozenset({need}), start_scene(), VIEWS)
    assert model is not None
    return model


def direction(seed: int = 5) -> Tensor:
    return as_matrix(random_scene(20, seed=seed, degree=0, dtype=torch.float32))


def quantities(model: SceneModel) -> list[Tensor]:
    product, diagonal = model.product(from_matrix(direction())), model.diagonal()
    at = model.value_at(start_scene().map(lambda t: t + 0.01))
    values = torch.tensor([model.value, at], dtype=torch.float64)
    return [values, as_matrix(model.gradient), as_matrix(product), as_matrix(diagonal)]


def test_a_pixel_is_expected_to_weigh_one() -> None:
    like = torch.zeros(2, 24, 32)
    draws = [drawn_tiles(like, 0.5, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(float(draw.unique()[-1]) == 2 for draw in draws)
    tiles = torch.stack([draw[:, ::16, ::16, 0] for draw in draws])
    assert bool((tiles.sum(dim=(1, 2, 3)) == TILES).all())
    assert bool((drawn_tiles(like, 1.0, torch.Generator()) == 1).all())
    assert float(drawn_tiles(like, 1e-9, torch.Generator()).max()) == TILES


@BOTH
def test_the_mean_over_all_draws_is_the_whole(need: Need) -> None:
    whole, found = whole_model(need), {}
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        drawn = int(torch.randperm(TILES, generator=torch.Generator().manual_seed(seed))[0])
        if drawn not in found:
            found[drawn] = quantities(whole.sampled(1 / TILES, generator))
    assert len(found) == TILES
    for number, expected in enumerate(quantities(whole)):
        mean = torch.stack([part[number].double() for part in found.values()]).mean(dim=0)
        torch.testing.assert_close(mean, expected.double(), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@BOTH
def test_one_draw_is_one_symmetric_map_and_the_slope_of_its_loss(need: Need) -> None:
    whole = whole_model(need)
    drawn = whole.sampled(0.4, torch.Generator().manual_seed(0))
    one, two = direction(5), direction(6)
    images = [as_matrix(drawn.product(from_matrix(way))) for way in (one, two)]
    assert dot(two, images[0]) == pytest.approx(dot(one, images[1]), rel=1e-4)
    assert dot(one, images[0]) > 0
    assert drawn.value_at(start_scene()) == pytest.approx(drawn.value, rel=1e-6)
    again = whole.sampled(0.4, torch.Generator().manual_seed(0))
    assert torch.equal(as_matrix(again.gradient), as_matrix(drawn.gradient))
    assert not torch.equal(as_matrix(whole.gradient), as_matrix(drawn.gradient))


@BOTH
def test_all_pixels_are_the_whole_to_the_bit(need: Need) -> None:
    whole = whole_model(need)
    assert whole.sampled(1.0, torch.Generator()) is whole
    expected = whole.sampled(0.999, torch.Generator())  # as many tiles, but drawn
    if need is Need.SQUARED_ERROR_MODEL:
        for one, two in zip(quantities(whole), quantities(expected), strict=True):
            assert torch.equal(one, two)


def test_a_pull_is_not_sampled() -> None:
    whole, anchor = whole_model(Need.SQUARED_ERROR_MODEL), start_scene().map(lambda t: t - 0.1)
    proximal = Proximal(anchor, anchor.map(lambda t: torch.full_like(t, 1e3)))
    pulled = ProximalModel(whole, proximal, start_scene()).sampled(0.3, torch.Generator().manual_seed(1))
    part = whole.sampled(0.3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(as_matrix(pulled.gradient), as_matrix(part.gradient) + 100, rtol=1e-5, atol=1e-4)
