"""Laws of the procedural scenes: exact geometry, honest noise, the same bits again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learn2splat.data.base import BadSceneError
from learn2splat.data.colmap_writer import write_colmap
from learn2splat.data.procedural import ProceduralScene, ProceduralSource, ProceduralSpec, make_scene
from learn2splat.data.procedural.atlas import Atlas
from learn2splat.data.procedural.geometry import INTERSECT, ray_triangle
from learn2splat.data.procedural.points import OUTLIERS
from learn2splat.data.procedural.primitives import Builder, Finish
from learn2splat.data.procedural.raycast import Eye, depth_map
from learn2splat.data.procedural.spec import THEMES
from learn2splat.data.procedural.textures import noise

pycolmap = pytest.importorskip("pycolmap")

SMALL = ProceduralSpec(seed=3, views=8, width=96, theme="facade")


@pytest.fixture(scope="module")
def scene() -> ProceduralScene:
    return make_scene(SMALL)


def _rays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    origin = rng.normal(size=(count, 3))
    origin *= rng.uniform(2, 4, (count, 1)) / np.linalg.norm(origin, axis=1, keepdims=True)
    return origin, rng.uniform(-1.2, 1.2, (count, 3)) - origin


def _components(points: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(points.T.copy()))


_INSIDE = {
    "sphere": lambda p: (p**2).sum(-1) < 1,
    "box": lambda p: (np.abs(p) < 1).all(-1),
    "cylinder": lambda p: ((p[..., :2] ** 2).sum(-1) < 1) & (np.abs(p[..., 2]) < 1),
}


@pytest.mark.parametrize("family", sorted(_INSIDE))
def test_closed_forms_agree_with_marching_along_the_ray(family: str) -> None:
    origin, direction = _rays(400, 0)
    t = INTERSECT[family](_components(origin), _components(direction)).numpy()
    steps = np.linspace(0, 2.5, 5001)
    inside = _INSIDE[family](origin[:, None] + steps[:, None] * direction[:, None])
    first = np.where(inside.any(1), steps[inside.argmax(1)], np.inf)
    # A ray that only grazes may slip between two steps.
    clear = inside.sum(1) > 3
    assert clear.sum() > 100
    np.testing.assert_allclose(t[clear], first[clear], atol=2 * steps[1])
    assert np.isinf(t[~inside.any(1)]).mean() > 0.97


def test_inside_a_box_the_far_wall_is_hit() -> None:
    t = INTERSECT["box"](_components(np.zeros((1, 3))), _components(np.array([[0.5, 0.1, 0.0]])))
    assert float(t) == pytest.approx(2.0)


def test_flat_shapes_are_hit_where_the_ray_crosses_their_outline() -> None:
    origin, direction = _rays(500, 1)
    at = origin - direction * (origin[:, 2:] / direction[:, 2:])
    ahead = -origin[:, 2] / direction[:, 2] > 1e-3
    expected = {"disc": np.hypot(at[:, 0], at[:, 1]) < 1, "leaf": np.abs(at[:, 0]) + at[:, 1] ** 2 < 1}
    for family, inside in expected.items():
        t = INTERSECT[family](_components(origin), _components(direction)).numpy()
        np.testing.assert_array_equal(np.isfinite(t), inside & ahead)


def test_triangles_agree_with_moeller_trumbore() -> None:
    rng, ahead = np.random.default_rng(2), np.array([0, 0, 4.0])
    corners, target = rng.normal(size=(300, 3, 3)) + ahead, rng.normal(size=(300, 3)) * 0.6 + ahead
    weights = np.linalg.solve(corners.swapaxes(1, 2), target[..., None])[..., 0]
    t = ray_triangle(_components(weights)).numpy()
    e, f = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(target, f)
    determinant = (e * p).sum(-1)
    u = -(corners[:, 0] * p).sum(-1) / determinant
    q = np.cross(-corners[:, 0], e)
    v, depth = (target * q).sum(-1) / determinant, (f * q).sum(-1) / determinant
    hit = (u > 0) & (v > 0) & (u + v < 1) & (depth > 1e-3)
    assert 30 < hit.sum() < 270
    np.testing.assert_array_equal(np.isfinite(t), hit)
    np.testing.assert_allclose(t[hit], depth[hit], rtol=1e-9)


def test_the_z_buffer_agrees_with_trying_every_shape() -> None:
    rng = np.random.default_rng(4)
    build = Builder(rng)
    for family, count in (("sphere", 40), ("box", 30), ("leaf", 60), ("cylinder", 20)):
        turned = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
        sizes = np.exp(rng.normal(-1, 0.6, (count, 3)))
        build.add(family, rng.uniform(-2, 2, (count, 3)) + np.array([0, 0, 5.0]), sizes, Finish(0), turned)
    placed = build.placed()
    eye = Eye(np.zeros(3), np.eye(3), 40.0, 42.0, 24.3, 17.9, 48, 36)
    y, x = np.mgrid[0:36, 0:48] + 0.5
    rays = np.stack([(x - eye.cx) / eye.fx, (y - eye.cy) / eye.fy, np.ones_like(x)], -1).reshape(-1, 3)
    best = np.full(len(rays), np.inf)
    for part in placed:
        for center, rotation, size in zip(part.center, part.rotation, part.size, strict=True):
            origin = np.broadcast_to(rotation.T @ -center / size, rays.shape)
            t = INTERSECT[part.family](_components(origin), _components(rays @ rotation / size))
            best = np.minimum(best, t.numpy())
    depth = depth_map(placed, eye).numpy().ravel()
    same = np.isclose(depth, best, rtol=1e-4) | (np.isinf(depth) & np.isinf(best))
    assert same.mean() > 0.998  # silhouettes may fall to either side in float32


def test_the_coarsest_texture_level_is_the_mean() -> None:
    textures = [np.random.default_rng(i).random((n, n, 5)).astype(np.float32) for i, n in enumerate((16, 64))]
    atlas = Atlas(textures)
    index, u, v = torch.tensor([0, 1, 1]), torch.rand(3), torch.rand(3)
    coarse = atlas.sample(index, u, v, torch.full((3,), 1e3))
    for column, texture in zip(coarse.T, (textures[0], textures[1], textures[1]), strict=True):
        np.testing.assert_allclose(column.numpy(), texture.mean((0, 1)), atol=0.25)
    fine = atlas.sample(
        torch.tensor([1]), torch.tensor([10.5 / 64]), torch.tensor([3 + 20.5 / 64]), torch.tensor([1e-3])
    )
    np.testing.assert_allclose(fine[:, 0].numpy(), textures[1][20, 10], atol=1e-4)


def test_noise_has_the_spectrum_it_promises() -> None:
    power = np.abs(np.fft.fft2(noise(np.random.default_rng(0), 256, 1.5))) ** 2
    low, high = power[0, 4:8].mean(), power[0, 32:64].mean()
    assert np.log2(low / high) == pytest.approx(9, abs=1.5)


def _points_from_depth(scene: ProceduralScene, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """World points [H, W, 3] of the depth of one view, and where they are away from silhouettes."""
    cameras, depth = scene.data.cameras, scene.depth[view]
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ray = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(cameras.K[view]).T
    pose = torch.linalg.inv(cameras.cam_from_world[view].double()).float()
    smooth = F.max_pool2d(depth[None, None], 3, 1, 1)[0, 0] < 1.05 * -F.max_pool2d(-depth[None, None], 3, 1, 1)[0, 0]
    return (ray * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3], smooth & (depth > 0)


@pytest.mark.parametrize("theme", ["garden", "wall", "street", "aerial"])
def test_depth_of_one_view_is_depth_of_the_next_where_both_see(theme: str) -> None:
    scene = make_scene(ProceduralSpec(seed=1, views=7, width=96, theme=theme))
    points, smooth = _points_from_depth(scene, 4)
    cameras, depth = scene.data.cameras, scene.depth[5]
    pose = cameras.cam_from_world[5]
    local = points[smooth] @ pose[:3, :3].T + pose[:3, 3]
    pixel = local @ cameras.K[5].T
    pixel = pixel[:, :2] / pixel[:, 2:]
    size = torch.tensor([depth.shape[1], depth.shape[0]])
    inside = ((pixel > 1) & (pixel < size - 1)).all(-1) & (local[:, 2] > 0)
    there = F.grid_sample(depth[None, None], (pixel / size * 2 - 1)[None, None], align_corners=False)[0, 0, 0]
    error = (there - local[:, 2])[inside] / local[inside, 2]
    assert inside.float().mean() > 0.2
    assert (error.abs() < 0.01).float().mean() > 0.75  # the rest: occluded, or interpolated over an edge
    assert error.abs().median() < 1e-3
    # Nothing can be seen through: what the next view sees there is never clearly farther.
    assert (error > 0.03).float().mean() < 0.1


def test_photos_of_two_views_show_the_same_colours_at_the_same_place(scene: ProceduralScene) -> None:
    points, smooth = _points_from_depth(scene, 4)
    cameras = scene.data.cameras
    pose = cameras.cam_from_world[5]
    local = points[smooth] @ pose[:3, :3].T + pose[:3, 3]
    pixel = local @ cameras.K[5].T
    size = torch.tensor([cameras.width, cameras.height])
    grid = (pixel[:, :2] / pixel[:, 2:] / size * 2 - 1)[None, None]
    other = scene.data.photos[5].permute(2, 0, 1)[None].float()
    mine = scene.data.photos[4][smooth].float()
    inside = (grid.abs() < 0.98).all(-1)[0, 0]

    def error(shift: float) -> float:
        looked = F.grid_sample(other, grid + shift / size * 2, align_corners=False)[0, :, 0].T
        return float((looked - mine)[inside].abs().mean())

    assert error(0.0) < 0.6 * min(error(3.0), error(-3.0))
    assert error(0.0) < error(0.7)
    assert error(0.0) < error(-0.7)


def test_sky_has_no_depth_and_no_alpha(scene: ProceduralScene) -> None:
    assert ((scene.alpha >= 0) & (scene.alpha <= 1)).all()
    assert (scene.depth[scene.alpha == 1] > 0).all()
    assert (scene.depth[scene.alpha == 0] == 0).all()
    assert 0 < float((scene.alpha == 0).float().mean()) < 0.8


def test_points_lie_on_surfaces_within_their_stated_noise(scene: ProceduralScene) -> None:
    sparse, cameras = scene.sparse, scene.data.cameras
    tracks = sparse.tracks
    pose = cameras.cam_from_world[torch.from_numpy(tracks.view)]
    local = (pose[:, :3, :3] @ sparse.cloud.positions_world[tracks.point][..., None])[..., 0] + pose[:, :3, 3]
    x, y = tracks.xy.astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < cameras.width) & (y < cameras.height) & ~sparse.outlier[tracks.point]
    at = tracks.view, y.clip(0, cameras.height - 1), x.clip(0, cameras.width - 1)
    far = F.max_pool2d(scene.depth[:, None], 3, 1, 1)[:, 0][at]
    near = -F.max_pool2d(-scene.depth[:, None], 3, 1, 1)[:, 0][at]
    off = torch.maximum(near - local[:, 2], local[:, 2] - far).numpy()  # a pixel holds a range of depths
    sigma = sparse.sigma[tracks.point].max(1)
    assert (off < 3 * sigma)[inside].mean() > 0.95
    assert abs(sparse.outlier.mean() - OUTLIERS) < 0.03


def test_points_project_to_their_observations(scene: ProceduralScene) -> None:
    sparse, cameras = scene.sparse, scene.data.cameras
    tracks = sparse.tracks
    pose = cameras.cam_from_world[torch.from_numpy(tracks.view)]
    local = (pose[:, :3, :3] @ sparse.cloud.positions_world[tracks.point][..., None])[..., 0] + pose[:, :3, 3]
    pixel = (cameras.K[torch.from_numpy(tracks.view)] @ local[..., None])[..., 0]
    error = np.linalg.norm((pixel[:, :2] / pixel[:, 2:]).numpy() - tracks.xy, axis=1)
    assert np.median(error) < 0.5
    assert np.quantile(error, 0.95) < 2.0
    assert np.bincount(tracks.point, minlength=len(sparse.cloud)).min() >= 2


def test_more_views_shrink_and_distance_grows_the_noise(scene: ProceduralScene) -> None:
    length = np.bincount(scene.sparse.tracks.point)
    keep = ~scene.sparse.outlier
    across = scene.sparse.sigma[:, 0]
    assert np.median(across[keep & (length >= 5)]) < np.median(across[keep & (length == 2)])
    assert (scene.sparse.sigma[:, 1] >= across).all()


def test_the_same_spec_gives_the_same_bits_whatever_the_threads(scene: ProceduralScene) -> None:
    state = torch.get_rng_state()
    again = make_scene(SMALL, workers=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(scene.depth, again.depth)
    assert all(torch.equal(a, b) for a, b in zip(scene.data.photos, again.data.photos, strict=True))
    assert torch.equal(scene.data.points.positions_world, again.data.points.positions_world)
    assert torch.equal(scene.data.cameras.cam_from_world, again.data.cameras.cam_from_world)


def test_another_seed_gives_another_world(scene: ProceduralScene) -> None:
    other = make_scene(replace(SMALL, seed=4))
    assert (scene.data.photos[0].float() - other.data.photos[0].float()).abs().mean() > 10


def test_resolution_changes_neither_world_nor_path(scene: ProceduralScene) -> None:
    fine = make_scene(replace(SMALL, width=192, noise=0.0, exposure=0.0, vignette=0.0))
    torch.testing.assert_close(fine.data.cameras.cam_from_world, scene.data.cameras.cam_from_world)
    coarse = F.avg_pool2d(fine.data.photos[2].permute(2, 0, 1)[None].float(), 2)[0].permute(1, 2, 0)
    assert (coarse - scene.data.photos[2].float()).abs().mean() < 14


def test_every_eighth_view_is_held_out() -> None:
    data = ProceduralSource().load(Path("procedural:seed=1,views=17,width=32,points=20"), max_size=512, test_every=8)
    assert list(data.test) == [0, 8, 16]
    assert sorted([*data.train, *data.test]) == list(range(17))
    assert data.points is not None
    assert len(data.points) <= 20


def test_colmap_folder_round_trip(scene: ProceduralScene, tmp_path: Path) -> None:
    data, folder = scene.data, tmp_path / "deep" / "scene"
    write_colmap(data, folder, depth=scene.depth, alpha=scene.alpha, tracks=scene.sparse.tracks)
    read = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
    assert len(read.images) == len(data.cameras)
    assert len(read.points3D) == len(data.points)
    for view in range(len(data.cameras)):
        image = read.images[view + 1]
        assert image.name == data.image_names[view]
        pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
        np.testing.assert_allclose(pose.matrix(), data.cameras.cam_from_world[view, :3].numpy(), atol=1e-6)
        np.testing.assert_allclose(image.camera.calibration_matrix(), data.cameras.K[view].numpy(), atol=1e-6)
    for index in range(len(data.points)):
        point = read.points3D[index + 1]
        np.testing.assert_allclose(point.xyz, data.points.positions_world[index].numpy(), atol=1e-6)
        views = scene.sparse.tracks.view[scene.sparse.tracks.point == index]
        assert {element.image_id - 1 for element in point.track.elements} == set(views.tolist())
    element = read.points3D[1].track.elements[0]
    assert read.images[element.image_id].points2D[element.point2D_idx].point3D_id == 1
    np.testing.assert_array_equal(np.load(folder / "depth" / "0003.npy"), scene.depth[3].numpy())
    assert (folder / "alpha" / "0003.png").is_file()
    assert not [p for p in folder.parent.iterdir() if p != folder]


def test_a_folder_that_holds_something_is_refused(scene: ProceduralScene, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_colmap(scene.data, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_a_failed_write_leaves_nothing_behind(scene: ProceduralScene, tmp_path: Path) -> None:
    class Broken(list):
        def __getitem__(self, view):
            raise OSError("unreadable")

    photos = Broken(scene.data.photos)
    with pytest.raises(OSError, match="unreadable"):
        write_colmap(replace(scene.data, photos=photos), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec",
    [ProceduralSpec(), SMALL, ProceduralSpec(seed=7, height=100, path="nadir", points=0, exposure=0.5, noise=0.0)],
)
def test_spec_text_round_trip(spec: ProceduralSpec) -> None:
    assert ProceduralSpec.parse(spec.format()) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("procedural:sed=3", "legal keys are seed, views"),
        ("procedural:seed", "key=value"),
        ("procedural:seed=", "key=value"),
        ("procedural:seed=1,seed=2", "twice"),
        ("procedural:views=2", "from 3 to"),
        ("procedural:views=many", "whole number"),
        ("procedural:seed=-1", "from 0 to"),
        ("procedural:noise=nan", "from 0.0 to"),
        ("procedural:path=spiral", "ring, forward, walk, nadir"),
        ("procedural:path=ring,theme=street", "tabletop, floor_object, garden"),
        ("procedural:test_every=1", "0 or 2"),
        ("/some/folder", "begin with"),
    ],
)
def test_bad_spec_text_names_what_is_legal(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProceduralSpec.parse(text)


def test_the_source_knows_its_own() -> None:
    source = ProceduralSource()
    assert source.recognises(Path("procedural:seed=3"))
    assert source.recognises("procedural:")
    assert not source.recognises(Path("/tmp"))
    with pytest.raises(BadSceneError, match="legal keys"):
        source.load(Path("procedural:depth=3"), max_size=64, test_every=8)
    data = source.load(Path("procedural:width=128,views=3"), max_size=32, test_every=0)
    assert max(data.cameras.width, data.cameras.height) == 32


@pytest.mark.parametrize("theme", sum(THEMES.values(), ()))
def test_every_theme_looks_like_an_exposed_photograph(theme: str) -> None:
    scene = make_scene(ProceduralSpec(seed=11, views=3, width=64, theme=theme))
    photos = torch.stack(list(scene.data.photos)).float() / 255
    assert 0.2 < float(photos.mean()) < 0.75
    assert float(photos.std()) > 0.08
    assert float((photos > 0.99).float().mean()) < 0.3
    assert len(scene.data.points) > 10
