"""Gaussian scenes: PLY both ways, lineage, initialisation, footprints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData

from learn2splat.data.base import PointCloud
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import GaussianScene, rgb_to_sh0, sh0_to_rgb
from learn2splat.scene.initialise import from_points, neighbour_spacing
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.ply import BadPlyError, read_ply, write_ply
from learn2splat.scene.random_points import random_points
from tests.conftest import random_scene, ring_cameras


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 17])
def test_ply_round_trip_keeps_every_bit(tmp_path: Path, degree: int, count: int) -> None:
    scene = random_scene(count, degree=degree, dtype=torch.float32)
    write_ply(scene, tmp_path / "a.ply")
    for name, tensor in read_ply(tmp_path / "a.ply").items():
        assert torch.equal(tensor, getattr(scene, name)), name


def test_ply_has_the_layout_that_viewers_expect(tmp_path: Path) -> None:
    scene = random_scene(3, dtype=torch.float32)
    write_ply(scene, tmp_path / "a.ply")
    vertices = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    names = [p.name for p in vertices.properties]
    assert names[:6] == ["x", "y", "z", "nx", "ny", "nz"]
    assert names[6:9] == ["f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:54] == [f"f_rest_{i}" for i in range(45)]
    assert names[54:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    # channel-major: red's 15 higher coefficients come first
    np.testing.assert_array_equal(vertices["f_rest_16"], scene.sh[:, 2, 1].numpy())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_ply_is_a_clear_error_or_a_finite_scene(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("ply")
    write_ply(random_scene(4, degree=1, dtype=torch.float32), folder / "a.ply")
    content = bytearray((folder / "a.ply").read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "b.ply").write_bytes(bytes(content))
    try:
        scene = read_ply(folder / "b.ply")
    except BadPlyError as error:
        message = str(error)
    else:
        message = "b.ply"
        assert scene.is_finite()
    assert "b.ply" in message


def test_missing_ply_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadPlyError, match="no such file"):
        read_ply(tmp_path / "none.ply")


def test_lineage_carries_rows_and_composes() -> None:
    rows = torch.arange(5.0)[:, None].repeat(1, 2)
    first = Lineage(torch.tensor([4, 0, 0, 2]), torch.tensor([False, False, True, False]))
    second = Lineage(torch.tensor([2, 0, 3]), torch.tensor([False, False, True]))
    assert first.take(rows)[:, 0].tolist() == [4, 0, 0, 2]
    assert first.take(rows + 1)[:, 0].tolist() == [5, 1, 0, 3]
    assert first.take(rows + 1, fresh_value=None)[:, 0].tolist() == [5, 1, 1, 3]
    stepwise = second.take(first.take(rows + 1))
    assert torch.equal(first.then(second).take(rows + 1), stepwise)
    assert torch.equal(Lineage.identity(5).take(rows), rows)


def test_points_become_gaussians_as_large_as_their_spacing() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(-1, 3) * 0.25
    colors = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    scene = from_points(PointCloud(grid, colors), sh_degree=2)
    torch.testing.assert_close(scene.log_scales.exp(), torch.full((64, 3), 0.25))
    torch.testing.assert_close(scene.logit_opacities.sigmoid(), torch.full((64,), 0.1))
    torch.testing.assert_close(sh0_to_rgb(scene.sh[:, 0]), colors)
    assert scene.sh.shape == (64, 9, 3)
    assert float(scene.sh[:, 1:].abs().max()) == 0


def test_spacing_equals_brute_force_and_survives_coincident_points() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(points.double(), points.double()).sort(dim=1).values[:, 1:4]
    expected = distances.square().mean(dim=1).sqrt().float()
    torch.testing.assert_close(neighbour_spacing(points), expected, rtol=1e-5, atol=0)
    doubled = neighbour_spacing(torch.cat([points[:1]] * 5 + [points[1:]]))
    assert bool((doubled > 0).all())
    assert bool((neighbour_spacing(torch.zeros(7, 3)) > 0).all())
    assert neighbour_spacing(torch.zeros(1, 3)).tolist() == [1.0]


def test_no_points_is_refused() -> None:
    with pytest.raises(ValueError, match="--init random"):
        from_points(PointCloud(torch.zeros(0, 3), torch.zeros(0, 3)))


@pytest.mark.parametrize("views", [1, 4])
def test_random_points_lie_in_view(views: int) -> None:
    cameras = ring_cameras(views)
    points = random_points(cameras, 500, torch.Generator().manual_seed(0)).positions_world.double()
    transform = cameras.cam_from_world
    local = torch.einsum("vij,nj->vni", transform[:, :3, :3], points) + transform[:, None, :3, 3]
    pixels = torch.einsum("vij,vnj->vni", cameras.K, local)
    uv = pixels[..., :2] / pixels[..., 2:]
    size = torch.tensor([cameras.width, cameras.height])
    inside = ((uv >= -1e-3) & (uv <= size + 1e-3)).all(dim=-1) & (local[..., 2] > 0)
    assert bool(inside.any(dim=0).all())


def test_footprint_is_depth_over_focal_length() -> None:
    cameras = ring_cameras(1)
    center, forward = cameras.centers_world[0], cameras.cam_from_world[0, 2, :3]
    depths = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    behind = (center - forward)[None]
    means = torch.cat([center + depths[:, None] * forward, behind])
    focal = math.sqrt(float(cameras.K[0, 0, 0] * cameras.K[0, 1, 1]))
    footprint = pixel_footprint_world(means, cameras, near=0.01)
    torch.testing.assert_close(footprint[:3], depths / focal)
    assert float(footprint[3]) == pytest.approx(2.0 / focal)


def test_shapes_are_checked_by_name() -> None:
    scene = random_scene(3)
    with pytest.raises(ValueError, match="log_scales"):
        GaussianScene(scene.means, scene.log_scales[:2], scene.quats, scene.logit_opacities, scene.sh)
    with pytest.raises(ValueError, match="sh"):
        GaussianScene(scene.means, scene.log_scales, scene.quats, scene.logit_opacities, scene.sh[:, :5])


def test_colour_and_constant_harmonic_are_inverse() -> None:
    rgb = torch.rand(5, 3, dtype=torch.float64)
    torch.testing.assert_close(sh0_to_rgb(rgb_to_sh0(rgb)), rgb)
