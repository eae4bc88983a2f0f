"""Camera paths: what they look at, what they pass through; and films that decode to what was put in."""

from __future__ import annotations

import io
import math

import av
import numpy as np
import pytest
import torch

from learn2splat.camera_paths import facing, focus_world, interpolated, looking_at, orbit, sized, tour, up_world
from learn2splat.cameras import Cameras
from learn2splat.video import mp4
from tests.conftest import ring_cameras

TARGET = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
UP = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)


def around(angles: list[float], target: torch.Tensor = TARGET) -> Cameras:
    """Cameras at height 1 and distance 3 that look at ``target``."""
    eyes = [target + torch.tensor([3 * math.sin(a), -1.0, -3 * math.cos(a)], dtype=torch.float64) for a in angles]
    poses = torch.stack([looking_at(eye, target, UP) for eye in eyes])
    K = torch.tensor([[50.0, 0, 21], [0, 50, 14], [0, 0, 1]], dtype=torch.float64).repeat(len(eyes), 1, 1)
    return Cameras.of_one_size(K, poses, 42, 29)


def rigid(cameras: Cameras) -> bool:
    rotation = cameras.cam_from_world[:, :3, :3].double()
    close = torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation), atol=1e-5)
    return close and bool((torch.linalg.det(rotation) > 0).all())


def test_the_focus_and_the_upward_axis_are_found() -> None:
    ring = around([0.1 + math.pi / 2 * side for side in range(4)])
    torch.testing.assert_close(focus_world(ring), TARGET, atol=0.05, rtol=0)
    torch.testing.assert_close(up_world(ring), UP)


@pytest.mark.parametrize("angles", [[0.0, 1.5, 3.0, 4.5], [-0.3, 0.0, 0.4], [0.2]])
def test_an_orbit_keeps_its_distance_and_looks_at_the_focus(angles: list[float]) -> None:
    cameras = around(angles)
    path = orbit(cameras, 16)
    focus = focus_world(cameras)
    offsets = path.centers_world - focus
    assert rigid(path)
    assert float(offsets.norm(dim=-1).std()) < 1e-9
    forward = path.cam_from_world[:, 2, :3]
    torch.testing.assert_close(forward, -offsets / offsets.norm(dim=-1, keepdim=True))
    assert float((path.cam_from_world[:, 0, :3] @ up_world(cameras)).abs().max()) < 1e-9  # level
    turned = (offsets[:, None] * offsets[None]).sum(dim=-1).min() / offsets[0].square().sum()
    assert (float(turned) < 0) == (len(angles) == 4)  # a circle only where there are cameras all around
    hop = (path.centers_world - path.centers_world.roll(1, dims=0)).norm(dim=-1)
    assert float(hop.max()) < 2 * 3 * math.pi / 16 * 1.1  # closed


def test_an_interpolated_path_passes_through_its_cameras() -> None:
    cameras = ring_cameras(5)
    path = interpolated(cameras, 4 * 6 + 1)
    assert rigid(path)
    torch.testing.assert_close(path.cam_from_world[::6], cameras.cam_from_world, atol=1e-9, rtol=0)
    still = interpolated(cameras.take([2]), 3)
    torch.testing.assert_close(still.cam_from_world, cameras.cam_from_world[2].expand(3, 4, 4))
    two = interpolated(cameras.take([0, 1]), 3)
    torch.testing.assert_close(two.centers_world[1], cameras.centers_world[:2].mean(dim=0))


def test_a_tour_orbits_what_is_looked_at_and_walks_where_all_look_outwards() -> None:
    inward = around([0.0, 1.5, 3.0, 4.5])
    torch.testing.assert_close(tour(inward, 8).cam_from_world, orbit(inward, 8).cam_from_world)
    turned = inward.cam_from_world.clone()
    turned[:, [0, 2]] *= -1  # each looks the other way
    outward = Cameras(inward.K, turned, inward.widths, inward.heights)
    torch.testing.assert_close(tour(outward, 8).cam_from_world, interpolated(outward, 8).cam_from_world)


def test_points_alone_are_seen_from_all_sides() -> None:
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 5.0
    cameras = facing(points, 64, 48)
    in_camera = points @ cameras.cam_from_world[:, :3, :3].mT + cameras.cam_from_world[:, None, :3, 3]
    assert float((in_camera[..., 2] > 0).double().mean()) > 0.99
    assert len(facing(points[:0], 64, 48)) == 4


def test_sizes_become_even_and_the_picture_stays() -> None:
    cameras = around([0.0, 1.0])
    small = sized(cameras, 21)
    assert (small.width, small.height) == (20, 14) or (small.width, small.height) == (22, 14)
    torch.testing.assert_close(small.K[:, 0, 2] / small.width, cameras.K[:, 0, 2] / cameras.width)
    assert sized(cameras, 1000).width == 42


def test_a_film_decodes_to_its_pictures() -> None:
    shades = torch.linspace(0.1, 0.9, 11)
    film = mp4((shade * torch.ones(18, 32, 3) for shade in shades), fps=10, quality=5)
    with av.open(io.BytesIO(film)) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == 10
    assert len(pictures) == 11
    assert pictures[0].shape == (18, 32, 3)
    np.testing.assert_allclose([frame.mean() / 255 for frame in pictures], shades, atol=0.02)


@pytest.mark.parametrize("pictures", [[], [torch.zeros(5, 4, 3)]])
def test_no_pictures_and_odd_sides_are_refused(pictures: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="film"):
        mp4(pictures)
