"""`l2s scene info` finds planted faults and is silent on sound captures; `l2s scene convert` round trips."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from PIL import Image

from learn2splat.cameras import Cameras
from learn2splat.data.base import PointCloud, SceneData
from learn2splat.data.colmap_writer import write_colmap
from learn2splat.data.sharpness import sharpness
from learn2splat.data.sources import load_scene
from learn2splat.scene.rig import overlaps, seen_by
from learn2splat.survey import findings, report
from tests.test_cli import l2s


def looking(centers: torch.Tensor, targets: torch.Tensor, size: int = 32) -> Cameras:
    """Cameras at ``centers`` [V, 3] that look at ``targets`` [V, 3], 53 degrees wide."""
    forward = torch.nn.functional.normalize(targets - centers, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([[0.0, 1.0, 0.01]])), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    pose = torch.eye(4).repeat(len(centers), 1, 1)
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = -(rotation @ centers[..., None])[..., 0]
    K = torch.tensor([[float(size), 0, size / 2], [0, size, size / 2], [0, 0, 1]]).repeat(len(centers), 1, 1)
    return Cameras.of_one_size(K, pose, size, size)


def ring(count: int = 10, radius: float = 4.0) -> torch.Tensor:
    angle = torch.arange(count) * 2 * torch.pi / count
    return radius * torch.stack([angle.cos(), 0.1 * angle.sin(), angle.sin()], dim=-1)


def capture(cameras: Cameras, points: torch.Tensor | None = None) -> SceneData:
    generator = torch.Generator().manual_seed(1)
    photos = [torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8) for _ in range(len(cameras))]
    cloud = None if points is None else PointCloud(points, torch.full_like(points, 0.5))
    names = [f"{view}.png" for view in range(len(cameras))]
    return SceneData("made", cameras, photos, names, cloud, list(range(len(cameras))), [])


def sound(points: bool = True) -> SceneData:
    cloud = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    return capture(looking(ring(), torch.zeros(10, 3)), cloud if points else None)


def only(scene: SceneData) -> str:
    (finding,) = findings(scene)
    return str(finding)


@pytest.mark.parametrize("points", [True, False])
def test_a_sound_capture_has_no_finding(points: bool) -> None:
    assert findings(sound(points)) == []


def test_overlap_is_the_share_of_common_points() -> None:
    scene = sound()
    assert scene.points is not None
    seen = seen_by(scene.cameras, scene.points.positions_world)
    for view in (0, 3):
        pose, K = scene.cameras.cam_from_world[view], scene.cameras.K[view]
        for point in range(0, 500, 50):
            x, y, z = (K @ (pose[:3, :3] @ scene.points.positions_world[point] + pose[:3, 3])).tolist()
            assert bool(seen[view, point]) == (z > 0 and 0 <= x / z <= 32 and 0 <= y / z <= 32)
    shares = overlaps(scene)
    assert float(shares[0, 3]) == pytest.approx(float((seen[0] & seen[3]).sum() / seen[0].sum()))
    assert shares.diagonal().tolist() == [0.0] * 10


def test_a_view_that_looks_away_is_named() -> None:
    targets = torch.zeros(10, 3)
    targets[4] = 3 * ring()[4]
    assert "1 views overlap with no other (4.png)" in only(
        capture(looking(ring(), targets), sound().points.positions_world)
    )  # type: ignore[union-attr]


def test_parts_that_look_apart_are_counted() -> None:
    centers = torch.cat([ring(6, 2.0), ring(4, 2.0) + torch.tensor([0, 100.0, 0])])
    targets = torch.cat([torch.zeros(6, 3), torch.tensor([[0, 100.0, 0]]).repeat(4, 1)])
    cloud = torch.cat([torch.randn(400, 3) * 0.3, torch.randn(400, 3) * 0.3 + torch.tensor([0, 100.0, 0])])
    assert "2 parts of 6, 4 that look apart" in only(capture(looking(centers, targets), cloud))


def test_equal_photos_and_poses_are_named() -> None:
    scene = sound()
    photos = [*scene.photos]  # type: ignore[misc]
    photos[7] = photos[2]
    assert "photos are equal (2.png = 7.png)" in only(replace(scene, photos=photos))
    cameras = scene.cameras.take([0, 1, 2, 3, 4, 5, 6, 2, 8, 9])
    assert "one pose (2.png = 7.png)" in only(replace(scene, cameras=cameras))


def flipped(scene: SceneData) -> SceneData:
    """``scene`` with OpenGL's poses taken for OpenCV's."""
    pose = torch.diag(torch.tensor([1.0, -1, -1, 1])) @ scene.cameras.cam_from_world
    return replace(scene, cameras=replace(scene.cameras, cam_from_world=pose))


def test_the_other_convention_is_suspected() -> None:
    texts = [str(finding) for finding in findings(flipped(sound()))]
    assert any("100 % of the points lie behind the cameras" in text and "OpenGL" in text for text in texts)
    assert any("only 0 % of the points" in text for text in texts)


def test_the_other_convention_is_suspected_without_points_where_the_axes_meet() -> None:
    texts = [str(finding) for finding in findings(flipped(sound(points=False)))]
    assert any("100 % of the cameras look away" in text and "cannot be told" in text for text in texts)


def test_parallel_cameras_are_judged_by_their_points_and_without_any_not_at_all() -> None:
    centers = torch.cartesian_prod(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 3), torch.zeros(1))
    cloud = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + torch.tensor([0, 0, 6.0])
    cameras = looking(centers, centers + torch.tensor([0, 0, 1.0]))
    forwards, blind = capture(cameras, cloud), capture(cameras)
    assert findings(forwards) == []
    assert "100 % of the points lie behind the cameras" in report(flipped(forwards))
    for scene in (blind, flipped(blind)):
        assert findings(scene) == []
        assert "which way they look cannot be told" in report(scene)
    assert "cannot be told" not in report(forwards)


def test_a_room_taken_from_its_middle_is_sound() -> None:
    cloud = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.2, 1])
    cloud = 5 * torch.nn.functional.normalize(cloud, dim=-1)
    centers = ring(20, 1.0)
    assert findings(capture(looking(centers, 2 * centers), cloud)) == []


def test_blurred_photos_are_named() -> None:
    scene = load_scene("procedural:seed=2,views=12,width=96")
    assert findings(scene) == []
    for sigma in (0.8, 2.0):
        photos = [*scene.photos]  # type: ignore[misc]
        for view in (3, 8):
            photos[view] = torch.from_numpy(cv2.GaussianBlur(photos[view].numpy(), (0, 0), sigma))
        named = f"2 photos are much less sharp than others of the same things ({scene.image_names[3]}, "
        assert named in only(replace(scene, photos=photos))


def test_photos_of_several_sizes_are_compared_at_one() -> None:
    """A sharp picture that is shown larger is soft only at its own size."""
    scene = load_scene("procedural:seed=2,views=12,width=96")
    photos = [*scene.photos]  # type: ignore[misc]
    photos[5] = torch.from_numpy(photos[5].numpy().repeat(2, axis=0).repeat(2, axis=1))
    assert sharpness(photos[5], 96) == sharpness(scene.photos[5], 96)
    assert sharpness(photos[5], 192) < sharpness(scene.photos[5], 96)
    assert findings(replace(scene, photos=photos)) == []


def test_turning_on_the_spot_is_told() -> None:
    scene = capture(
        looking(torch.zeros(10, 3), ring()), 5 * torch.nn.functional.normalize(torch.randn(3000, 3), dim=-1)
    )
    assert any("taken from one place" in str(finding) for finding in findings(scene))


@pytest.mark.parametrize(
    ("factor", "shift", "says"), [(1e-5, 0.0, "rescale"), (1e6, 0.0, "rescale"), (1.0, 1e6, "origin")]
)
def test_scales_that_float32_cannot_hold_are_told(factor: float, shift: float, says: str) -> None:
    scene = sound(points=False)
    centers = ring() * factor + shift
    cameras = looking(centers.double().float(), torch.full((10, 3), shift))
    assert any(says in str(finding) for finding in findings(replace(scene, cameras=cameras)))


def test_two_views_are_few() -> None:
    scene = sound()
    two = capture(scene.cameras.take([0, 1]), scene.points.positions_world)  # type: ignore[union-attr]
    assert "only 2 views" in only(two)


def test_the_report_names_what_is_there() -> None:
    text = report(sound())
    assert "10 views, 10 to train on, 0 held out" in text
    assert "10 of 32x32" in text
    assert "53.1 degrees wide" in text
    assert text.endswith("nothing suspicious")
    assert "none: a run starts from random points" in report(sound(points=False))


# ---- the commands


def test_info_and_convert_as_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_colmap(sound(), tmp_path / "one")
    assert l2s("scene", "info", tmp_path / "one") == 0
    assert "500, 98 % of each coordinate" in capsys.readouterr().out
    assert l2s("scene", "convert", tmp_path / "one", tmp_path / "two") == 0
    one, two = (load_scene(tmp_path / name) for name in ("one", "two"))
    assert torch.equal(one.cameras.K, two.cameras.K)
    assert torch.allclose(one.cameras.cam_from_world, two.cameras.cam_from_world, atol=1e-6)
    assert all(torch.equal(one.photos[view], two.photos[view]) for view in range(10))
    assert one.points is not None
    assert two.points is not None
    assert torch.equal(one.points.positions_world, two.points.positions_world)
    assert torch.equal(one.points.colors, two.points.colors)
    assert l2s("scene", "convert", tmp_path / "one", tmp_path / "two") == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert l2s("scene", "info", tmp_path) == 2
    assert "not a scene, but holds some (one, two)" in capsys.readouterr().err


def test_a_run_begins_with_what_is_suspicious(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud = sound().points
    assert cloud is not None
    write_colmap(capture(looking(torch.zeros(10, 3), ring()), cloud.positions_world), tmp_path / "one")
    fast = ["--optimizer", "adam", "--steps", "1", "--max-gaussians", "9", "--sh-degree", "0"]
    assert l2s("optimize", "--scene", tmp_path / "one", "--out", tmp_path / "run", *fast) == 0
    assert "warning: all photos are taken from one place" in capsys.readouterr().out
    warnings = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert any(warning.startswith("all photos are taken from one place: move") for warning in warnings)


def test_what_is_converted_is_read_by_pycolmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap(sound(), tmp_path / "one")
    assert l2s("scene", "convert", tmp_path / "one", tmp_path / "two") == 0
    model = pycolmap.Reconstruction(tmp_path / "two" / "sparse" / "0")
    assert (len(model.images), len(model.points3D)) == (10, 500)
    expected = {f"{view}.png": pose for view, pose in enumerate(sound().cameras.cam_from_world)}
    for image in model.images.values():
        assert torch.allclose(
            torch.from_numpy(image.cam_from_world().matrix()).float(), expected[image.name][:3], atol=1e-6
        )


def test_conversion_keeps_transparency_and_removes_distortion(tmp_path: Path) -> None:
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    for name, lens in (("plain", {}), ("bent", {"k1": 0.1})):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGBA", (32, 24), (200, 100, 0, 128)).save(folder / "a.png")
        frames = [{"file_path": "a", "transform_matrix": pose}]
        (folder / "transforms.json").write_text(json.dumps({"fl_x": 30.0, "frames": frames, **lens}))
        assert l2s("scene", "convert", folder, tmp_path / f"{name}-colmap") == 0
    copied = tmp_path / "plain-colmap" / "images" / "a.png"
    assert copied.read_bytes() == (tmp_path / "plain" / "a.png").read_bytes()
    text = (tmp_path / "bent-colmap" / "sparse" / "0" / "cameras.txt").read_text()
    assert re.search(r"^1 PINHOLE 32 24 3\d\.", text, re.MULTILINE)
    bent, straight = load_scene(tmp_path / "bent", test_every=0), load_scene(tmp_path / "bent-colmap", test_every=0)
    assert torch.equal(bent.photos[0], straight.photos[0])
    assert torch.equal(bent.cameras.K, straight.cameras.K)


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    write_colmap(sound(), tmp_path / "one")
    photo = tmp_path / "one" / "images" / "3.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :])
    assert l2s("scene", "convert", tmp_path / "one", tmp_path / "two") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]
