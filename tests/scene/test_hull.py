"""Points in the visual hull: inside what every photo shows, all over it, and only where photos are transparent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from learn2splat.data.base import SceneData
from learn2splat.data.photos import LazyPhotos, PhotoFile
from learn2splat.errors import UserError
from learn2splat.scene.hull import hull_points
from learn2splat.scene.initialise import initial_scene
from tests.conftest import ring_cameras

VIEWS, WIDTH, HEIGHT, RADIUS = 6, 60, 44, 0.5


def ball(folder: Path, transparent: bool = True) -> SceneData:
    """A red ball around the origin, drawn by its definition: rays that pass it within its radius."""
    cameras = ring_cameras(VIEWS, WIDTH, HEIGHT, distance=3.0)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    pixels = torch.from_numpy(np.stack([x, y, np.ones_like(x)], axis=-1))
    files = []
    for view in range(VIEWS):
        rays = torch.linalg.solve(cameras.K[view], pixels[..., None])[..., 0]
        middle = cameras.cam_from_world[view, :3, 3]
        missed = torch.linalg.cross(rays, middle.expand_as(rays)).norm(dim=-1) / rays.norm(dim=-1)
        alpha = torch.where(missed < RADIUS, 255, 0).byte()
        rgba = torch.cat([torch.tensor([204, 51, 0], dtype=torch.uint8).expand(HEIGHT, WIDTH, 3), alpha[..., None]], -1)
        Image.fromarray((rgba if transparent else rgba[..., :3].contiguous()).numpy()).save(folder / f"{view}.png")
        files.append(PhotoFile(folder / f"{view}.png", WIDTH, HEIGHT))
    names = [file.path.name for file in files]
    return SceneData("ball", cameras.to(dtype=torch.float32), LazyPhotos(files), names, None, list(range(VIEWS)), [])


def test_points_fill_the_hull_and_nothing_else(tmp_path: Path) -> None:
    points = hull_points(ball(tmp_path), range(VIEWS), 2000, torch.Generator().manual_seed(0))
    assert points is not None
    distances = points.positions_world.norm(dim=-1)
    assert len(points) == 2000
    # the views lie in one plane around the ball: their hull is higher and lower than it, though not by much
    assert float(distances.quantile(0.95)) < 1.2 * RADIUS
    assert float(distances.max()) < 2.0 * RADIUS
    octants = (points.positions_world > 0).int() @ torch.tensor([1, 2, 4], dtype=torch.int32)
    assert int(octants.bincount(minlength=8).min()) > 2000 / 8 / 2
    assert torch.allclose(points.colors, torch.tensor([0.8, 0.2, 0.0]).expand(2000, 3), atol=1e-6)


def test_the_hull_is_the_start_where_photos_are_transparent(tmp_path: Path) -> None:
    data = ball(tmp_path)
    for kind in ("auto", "hull"):
        scene = initial_scene(data, range(VIEWS), kind, random_count=300)
        assert float(scene.means.norm(dim=-1).max()) < 2.0 * RADIUS
    assert float(initial_scene(data, range(VIEWS), "random", random_count=300).means.norm(dim=-1).max()) > 4.0 * RADIUS


def test_opaque_photos_have_no_hull(tmp_path: Path) -> None:
    data = ball(tmp_path, transparent=False)
    assert hull_points(data, range(VIEWS), 10, torch.Generator()) is None
    with pytest.raises(UserError, match="are opaque"):
        initial_scene(data, range(VIEWS), "hull")
    spread = initial_scene(data, range(VIEWS), "auto", random_count=300).means.norm(dim=-1)
    assert float(spread.max()) > 4.0 * RADIUS


def test_photos_that_show_nothing_have_no_hull(tmp_path: Path) -> None:
    data = ball(tmp_path)
    for view in range(VIEWS):
        Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)).save(tmp_path / f"{view}.png")
    assert hull_points(data, range(VIEWS), 500, torch.Generator().manual_seed(0)) is None
    assert len(initial_scene(data, range(VIEWS), "auto", random_count=50)) == 50
