"""The compact initialiser: depths of a plane, symmetries, what it says untrained, any size, any number of views."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.networks.pyramid import CELL, cell_centers
from learn2splat.predict.base import Prediction
from learn2splat.predict.compact import LOGIT, SPREAD, CompactInitialiser
from learn2splat.predict.sweep import DEPTHS, log_depths, matching_cost, nearest_views
from learn2splat.scene.gaussians import sh0_to_rgb
from tests.conftest import ring_cameras
from tests.scene.test_frame import a_frame, moved_cameras


def network(trained: bool = True) -> CompactInitialiser:
    """A small one; "trained" ones have random weights where untrained ones have zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CompactInitialiser(width=16, planes=8, groups=2, neighbours=4, blocks=1).double()
        if trained:
            for parameter in net.parameters():
                if float(parameter.detach().abs().max()) == 0:
                    torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def photos(views: int, height: int, width: int) -> Tensor:
    return torch.rand(views, height, width, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@torch.no_grad()
def predict(net: CompactInitialiser, images: Tensor, cameras: Cameras) -> Prediction:
    return net(images, cameras)


def side_by_side(count: int, width: int = 64, height: int = 48) -> Cameras:
    """Cameras in a row, 0.2 apart, all looking along +z."""
    pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    pose[:, 0, 3] = -0.2 * torch.arange(count)
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras.of_one_size(K.repeat(count, 1, 1), pose, width, height)


def test_a_plane_is_found_at_its_depth() -> None:
    """Features that are a function of the point on a plane match best at the plane's depth."""
    cameras = side_by_side(3)
    depths = log_depths(cameras, 24)
    frequencies = 8 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rays = cameras.rays(cell_centers(torch.zeros(12, 16, dtype=torch.float64)))
    for index in (12, 15, 18):
        points = rays + cameras.centers_world[:, None, None] / depths[index].exp()
        phases = points[..., :2] @ frequencies.T
        features = torch.cat([phases.sin(), phases.cos()], dim=-1).permute(0, 3, 1, 2)
        features = torch.nn.functional.normalize(features.unflatten(1, (2, -1)), dim=2).flatten(1, 2)
        cost = matching_cost(features, cameras, depths, groups=2).sum(dim=1)
        inner = cost[1, :, 1:-1, 4:-4].mean(dim=(1, 2))
        assert int(inner.argmax()) == index
        assert float(inner[index]) > 1.8  # of 2 at most; the rest is interpolation between cells


def test_depths_are_logarithmic_and_in_the_units_of_the_rig() -> None:
    cameras = ring_cameras(4)
    depths = log_depths(cameras, 10)
    torch.testing.assert_close(depths.diff(), depths.diff()[:1].expand(9), rtol=0, atol=1e-12)
    assert float(depths[-1] - depths[0]) == pytest.approx(math.log(DEPTHS[1] / DEPTHS[0]))
    assert float(depths[0].exp()) < 3.0 < float(depths[-1].exp())  # the rig looks at a point 3 away


def test_views_are_compared_with_their_nearest() -> None:
    assert nearest_views(side_by_side(4))[[0, 3]].tolist() == [[1, 2], [2, 1]]
    assert nearest_views(side_by_side(2)).tolist() == [[1], [0]]


@pytest.mark.parametrize("views", [2, 3, 5])
def test_permuting_views_permutes_gaussians(views: int) -> None:
    cameras, images, net = ring_cameras(views, 24, 16), photos(views, 16, 24), network()
    order = torch.randperm(views, generator=torch.Generator().manual_seed(1)).roll(1)
    plain, shuffled = predict(net, images, cameras), predict(net, images[order], cameras.take(order))
    rows = torch.arange(len(plain.scene)).view(views, -1)[order].flatten()
    for name, tensor in plain.scene.take(rows).items():
        torch.testing.assert_close(getattr(shuffled.scene, name), tensor, rtol=0, atol=1e-8)
    assert plain.features is not None
    torch.testing.assert_close(shuffled.features, plain.features[rows], rtol=0, atol=1e-8)


def test_gaussians_move_turn_and_grow_with_the_world() -> None:
    cameras, images, net, frame = ring_cameras(4, 24, 16), photos(4, 16, 24), network(), a_frame()
    expected = frame.scene(predict(net, images, cameras).scene)
    found = predict(net, images, moved_cameras(cameras, frame)).scene
    sign = (found.quats * expected.quats).sum(dim=1, keepdim=True).sign()
    for name, tensor in expected.items():
        tensor = tensor * sign if name == "quats" else tensor
        torch.testing.assert_close(getattr(found, name), tensor, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [(16, 24), (22, 30), (5, 7)])
def test_untrained_gaussians_fill_their_cells_in_the_colours_of_the_photo(size: tuple[int, int]) -> None:
    height, width = size
    cameras, images = ring_cameras(2, width, height), photos(2, height, width)
    scene = predict(network(trained=False), images, cameras).scene
    rows, columns = math.ceil(height / CELL), math.ceil(width / CELL)
    assert len(scene) == 2 * rows * columns
    means = scene.means.view(2, rows, columns, 3)
    in_camera = torch.einsum("vij,vrcj->vrci", cameras.cam_from_world[:, :3, :3], means)
    in_camera = in_camera + cameras.cam_from_world[:, None, None, :3, 3]
    pixels = torch.einsum("vij,vrcj->vrci", cameras.K, in_camera)
    centers = cell_centers(torch.zeros(rows, columns, dtype=torch.float64))
    torch.testing.assert_close(pixels[..., :2] / pixels[..., 2:], centers.expand(2, -1, -1, -1), rtol=0, atol=1e-9)
    focal = torch.sqrt(cameras.K[:, 0, 0] * cameras.K[:, 1, 1])[:, None, None]
    across_px = scene.log_scales.exp().view(2, rows, columns, 3) * focal[..., None] / in_camera[..., 2:]
    torch.testing.assert_close(across_px, torch.full_like(across_px, SPREAD * CELL), rtol=1e-9, atol=0)
    first = images[0, :CELL, :CELL].mean(dim=(0, 1))
    torch.testing.assert_close(sh0_to_rgb(scene.sh[0, 0]), first, rtol=0, atol=1e-9)
    assert float(scene.sh[:, 1:].abs().max()) == 0
    assert bool((scene.logit_opacities == LOGIT).all())


def test_what_does_not_suit_is_refused() -> None:
    net = network()
    with pytest.raises(ValueError, match="1 views: the initialiser takes 2 to 16"):
        net(photos(1, 16, 24), ring_cameras(1, 24, 16))
    with pytest.raises(ValueError, match="do not match 3 cameras"):
        net(photos(2, 16, 24), ring_cameras(3, 24, 16))
    with pytest.raises(ValueError, match="no multiple of groups=3"):
        CompactInitialiser(width=16, groups=3)


def test_the_size_is_that_of_the_documentation() -> None:
    count = sum(parameter.numel() for parameter in CompactInitialiser().parameters())
    assert 0.3e6 < count < 1.1e6
