"""transforms.json and Blender captures: conventions, lenses, alpha, faults that are named, damage that only raises."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from learn2splat.cameras import Cameras
from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.colmap_writer import write_colmap
from learn2splat.data.sources import load_scene
from learn2splat.losses import PhotometricLoss
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.ply import write_ply
from learn2splat.scene_loss import SceneLoss

WIDTH, HEIGHT, FX, FY, CX, CY = 32, 24, 30.0, 31.0, 15.5, 12.25
Content = dict[str, Any]


def poses(count: int, seed: int = 0) -> NDArray[np.float64]:
    """[count, 4, 4] random world-from-camera poses, OpenCV."""
    rng = np.random.default_rng(seed)
    result = np.tile(np.eye(4), (count, 1, 1))
    result[:, :3, :3] = Rotation.random(count, rng).as_matrix()
    result[:, :3, 3] = rng.normal(size=(count, 3))
    return result


def content(world_from_cam: NDArray[np.float64], folder: str = "images", **shared: Any) -> Content:
    """A transforms.json. Columns of an OpenGL pose are the camera's right, up and backward axes in the world."""
    frames = []
    for index, pose in enumerate(world_from_cam):
        right, down, forward, center = pose.T[:, :3]
        matrix = np.eye(4)
        matrix[:3] = np.stack([right, -down, -forward, center], axis=1)
        frames.append({"file_path": f"./{folder}/{index}.png", "transform_matrix": matrix.tolist()})
    intrinsics = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT}
    return {**intrinsics, **shared, "frames": frames}


def photo(path: Path, mode: str = "RGB", color: tuple[int, ...] = (9, 90, 200)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (WIDTH, HEIGHT), color).save(path)


def write(folder: Path, written: Content, name: str = "transforms.json") -> Path:
    for frame in written["frames"]:
        path = folder / frame["file_path"]
        photo(path if path.suffix else path.with_suffix(".png"))
    (folder / name).write_text(json.dumps(written))
    return folder


def load(path: Path, **options: int) -> SceneData:
    return load_scene(path, **{"test_every": 0, "max_size": 1600, **options})


def loaded(folder: Path, **shared: Any) -> SceneData:
    return load(write(folder, content(poses(1), **shared)))


# ---- conventions


def test_cameras_arrive_in_opencv_convention(tmp_path: Path) -> None:
    expected = poses(5)
    scene = load(write(tmp_path / "room", content(expected)))
    assert scene.name == "room"
    assert tuple(scene.image_names) == tuple(f"images/{i}.png" for i in range(5))
    assert torch.allclose(scene.cameras.cam_from_world.double(), torch.from_numpy(np.linalg.inv(expected)), atol=1e-6)
    assert scene.cameras.K[3].tolist() == [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
    assert (scene.cameras.width, scene.cameras.height) == (WIDTH, HEIGHT)
    assert "starts from random points" in scene.warnings[0]


def test_the_same_cameras_as_colmap_are_the_same(tmp_path: Path) -> None:
    scene = load(write(tmp_path / "transforms", content(poses(6))))
    other = load(write_colmap(scene, tmp_path / "colmap"))
    assert torch.equal(other.cameras.K, scene.cameras.K)
    assert torch.allclose(other.cameras.cam_from_world, scene.cameras.cam_from_world, atol=1e-6)
    assert tuple(other.image_names) == tuple(scene.image_names)
    assert all(torch.equal(other.photos[view], scene.photos[view]) for view in range(6))


def test_a_camera_angle_is_the_whole_field_of_view(tmp_path: Path) -> None:
    written = content(poses(1))
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        del written[key]
    written["camera_angle_x"] = 2 * math.atan(0.5)
    K = load(write(tmp_path, written)).cameras.K[0]
    assert torch.allclose(K, torch.tensor([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1.0]]))


def test_a_frame_overrides_what_all_share(tmp_path: Path) -> None:
    written = content(poses(2))
    written["frames"][1] |= {"fl_x": 40.0, "cy": 13.0}
    K = load(write(tmp_path, written)).cameras.K
    assert K[:, 0, 0].tolist() == [FX, 40.0]
    assert K[:, 1, 2].tolist() == [CY, 13.0]


def test_scaled_poses_lose_their_scale_only(tmp_path: Path) -> None:
    written, expected = content(poses(1)), np.linalg.inv(poses(1))
    written["frames"][0]["transform_matrix"] = [
        [*(7 * v for v in row[:3]), row[3]] for row in written["frames"][0]["transform_matrix"][:3]
    ]
    scene = load(write(tmp_path, written))
    assert torch.allclose(scene.cameras.cam_from_world.double(), torch.from_numpy(expected), atol=1e-6)


def test_points_beside_are_read_in_the_same_world(tmp_path: Path) -> None:
    written = content(poses(1), ply_file_path="points.ply")
    rows = "1 2 3 255 0 51\n-1 0.5 9 0 102 204\nnan 0 0 1 1 1\n"
    header = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(f"property float {c}\n" for c in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    (write(tmp_path, written) / "points.ply").write_text(header + rows)
    scene = load(tmp_path)
    assert scene.points is not None
    assert scene.points.positions_world.tolist() == [[1, 2, 3], [-1, 0.5, 9]]
    assert (scene.points.colors * 255).round().tolist() == [[255, 0, 51], [0, 102, 204]]
    assert scene.warnings == ("1 of 3 points are not finite and were left out",)
    (tmp_path / "points.ply").write_text(header.replace("vertex 3", "vertex 99999999999") + rows)
    with pytest.raises(BadSceneError, match=r"points\.ply.*truncated"):
        load(tmp_path)


def test_the_split_of_the_file_is_kept(tmp_path: Path) -> None:
    written = content(poses(4), test_filenames=["images/2.png"], train_filenames=["images/0.png"])
    write(tmp_path, written)
    assert load(tmp_path, test_every=8).test == [2]
    assert load(tmp_path, test_every=0).test == []


def test_missing_photos_are_told(tmp_path: Path) -> None:
    (write(tmp_path, content(poses(3))) / "images" / "1.png").unlink()
    scene = load(tmp_path)
    assert tuple(scene.image_names) == ("images/0.png", "images/2.png")
    assert "1 of 3 photos are missing" in scene.warnings[0]


# ---- lenses, against formulas written out here


def perspective(x: NDArray[np.float64], k: tuple[float, ...], p: tuple[float, float]) -> NDArray[np.float64]:
    """OpenCV's radial and tangential distortion of rays [..., 2]."""
    r2 = (x**2).sum(-1, keepdims=True)
    radial = 1 + sum(value * r2 ** (i + 1) for i, value in enumerate(k))
    u, v = x[..., :1], x[..., 1:]
    tangential = np.concatenate(
        [2 * p[0] * u * v + p[1] * (r2 + 2 * u**2), p[0] * (r2 + 2 * v**2) + 2 * p[1] * u * v], axis=-1
    )
    return np.asarray(x * radial + tangential)


def fisheye(x: NDArray[np.float64], k: tuple[float, ...]) -> NDArray[np.float64]:
    """OpenCV's fisheye: the angle to the axis, as a polynomial, is the radius."""
    r = np.linalg.norm(x, axis=-1, keepdims=True)
    theta = np.arctan(r)
    return np.asarray(x / r * theta * (1 + sum(value * theta ** (2 * i + 2) for i, value in enumerate(k))))


LENSES: dict[str, tuple[Content, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "OPENCV": (
        {"k1": 0.08, "k2": -0.05, "p1": 0.004, "p2": -0.003},
        lambda x: perspective(x, (0.08, -0.05), (0.004, -0.003)),
    ),
    "k3": ({"k1": -0.1, "k3": 0.05, "camera_model": "OPENCV"}, lambda x: perspective(x, (-0.1, 0, 0.05), (0, 0))),
    "nerfstudio fisheye": (
        {"k1": 0.05, "k4": 0.01, "camera_model": "OPENCV_FISHEYE"},
        lambda x: fisheye(x, (0.05, 0, 0, 0.01)),
    ),
    "instant-ngp fisheye": ({"k1": -0.03, "k2": 0.02, "is_fisheye": True}, lambda x: fisheye(x, (-0.03, 0.02))),
}


@pytest.mark.parametrize("name", LENSES)
def test_undistorted_photos_are_pinhole_images(tmp_path: Path, name: str) -> None:
    """A picture whose colour is a linear function of the ray has that colour at every pixel of the new camera."""
    keys, distort = LENSES[name]
    width, height = 96, 72
    shape = {"w": width, "h": height, "fl_x": 90.0, "fl_y": 92.0, "cx": 47.0, "cy": 37.0}
    y, x = np.mgrid[:height, :width] + 0.5
    target = np.stack([(x - 47.0) / 90.0, (y - 37.0) / 92.0], axis=-1)
    rays = target.copy()
    for _ in range(100):
        rays += target - distort(rays)
    assert np.abs(distort(rays) - target).max() < 1e-9
    written = content(poses(1), **keys, **shape)
    picture = np.concatenate([128 + 120 * rays, np.zeros_like(rays[..., :1])], axis=-1)
    Image.fromarray(picture.round().astype(np.uint8)).save(write(tmp_path, written) / "images" / "0.png")
    scene = load(tmp_path)
    K = scene.cameras.K[0].double().numpy()
    seen = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]], axis=-1)
    assert np.abs(scene.photos[0].numpy()[..., :2] - (128 + 120 * seen)).max() < 1.6


# ---- Blender


def blender(folder: Path, kinds: tuple[str, ...] = ("train", "test")) -> Path:
    for kind in kinds:
        written = content(poses(3, seed=len(kind)), folder=kind, camera_angle_x=0.7)
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            del written[key]
        for frame in written["frames"]:
            frame["file_path"] = frame["file_path"].removesuffix(".png")
        write(folder, written, f"transforms_{kind}.json")
    return folder


def test_blender_captures_bring_their_split(tmp_path: Path) -> None:
    scene = load(blender(tmp_path), test_every=8)
    assert [scene.image_names[view] for view in scene.test] == ["test/0.png", "test/1.png", "test/2.png"]
    assert [scene.image_names[view] for view in scene.train] == ["train/0.png", "train/1.png", "train/2.png"]
    assert float(scene.cameras.K[0, 0, 0]) == pytest.approx(0.5 * WIDTH / math.tan(0.35))
    expected = np.linalg.inv(np.concatenate([poses(3, seed=4), poses(3, seed=5)]))
    assert torch.allclose(scene.cameras.cam_from_world.double(), torch.from_numpy(expected), atol=1e-6)
    everything = load(tmp_path)
    assert (len(everything.train), len(everything.test)) == (6, 0)
    (tmp_path / "transforms_test.json").unlink()
    assert load(tmp_path, test_every=2).test == [0, 2]


@pytest.mark.parametrize("level", [0.0, 1.0, 0.4])
def test_alpha_reaches_the_loss_over_the_background(tmp_path: Path, level: float) -> None:
    """An empty scene shows the background: its loss on transparent photos is 0, whatever the colour they hide."""
    blender(tmp_path, ("train",))
    alphas = (0, 255, 102)
    for view, alpha in enumerate(alphas):
        photo(tmp_path / "train" / f"{view}.png", "RGBA", (255, 0, 51, alpha))
    scene = load(tmp_path)
    empty = GaussianScene(
        torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 4), torch.full((1,), -50.0), torch.zeros(1, 1, 3)
    )
    loss = SceneLoss(scene, ReferenceRenderer(), PhotometricLoss(), torch.full((3,), level))
    photos = loss.photos([0, 1, 2])
    for view, alpha in enumerate(alphas):
        expected = alpha / 255 * torch.tensor([1, 0, 0.2]) + (1 - alpha / 255) * level
        assert torch.allclose(photos[view], expected.expand(HEIGHT, WIDTH, 3), atol=0.5 / 255 + 1e-6)
    assert loss.value(empty, [0]) < 1e-6
    assert loss.value(empty, [1]) > 0.1


def test_photos_in_two_splits_are_refused(tmp_path: Path) -> None:
    text = (blender(tmp_path) / "transforms_train.json").read_text()
    (tmp_path / "transforms_test.json").write_text(text)
    with pytest.raises(BadSceneError, match=r"share photos \(train/0\.png"):
        load(tmp_path)


# ---- faults are named

FRAME = ("frames", 0)
FAULTS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "NaN focal length": (("fl_x",), math.nan, r"frame 0 \(images/0\.png\): fl_x.*not a finite number"),
    "huge integer": (("fl_x",), 10**400, "fl_x.*not a finite number"),
    "text": (("cx",), "15", "cx.*not a finite number"),
    "no focal length": (("fl_x",), None, "neither fl_x nor camera_angle_x"),
    "impossible focal length": (("fl_x",), 1e-9, "focal length.*impossible"),
    "wide angle": ((*FRAME, "camera_angle_x"), 7.0, "between 0 and pi"),
    "size": (("w",), 64, "calibrated at 64x24"),
    "huge size": (("w",), 1e30, "image size.*impossible"),
    "k4": (("k4",), 0.1, "k4 has no agreed meaning"),
    "panorama": (("camera_model",), "EQUIRECTANGULAR", "camera_model 'EQUIRECTANGULAR' is not supported"),
    "f-theta": (("ftheta_p0",), 0.1, "f-theta"),
    "list as model": (("camera_model",), [1], r"camera_model \[1\] is not supported"),
    "no frames": (("frames",), [], "holds no list 'frames'"),
    "frame": (FRAME, 3, "expected an object, found 3"),
    "path": ((*FRAME, "file_path"), 3, "file_path is 3, not the path"),
    "path leaves": ((*FRAME, "file_path"), "../../x.png", r"not a path inside.*move the photos"),
    "surrogate": ((*FRAME, "file_path"), "\ud800.png", "not a path inside"),
    "twice": ((*FRAME, "file_path"), "images/1.png", "there twice"),
    "no pose": ((*FRAME, "transform_matrix"), None, "transform_matrix is None"),
    "ragged pose": ((*FRAME, "transform_matrix"), [[1, 0], [0]], "transform_matrix"),
    "zero pose": ((*FRAME, "transform_matrix"), [[0.0] * 4] * 3, "right angles"),
    "mirrored pose": ((*FRAME, "transform_matrix"), np.diag([1.0, 1, -1, 1]).tolist(), "mirrored"),
    "sheared pose": ((*FRAME, "transform_matrix"), np.diag([1.0, 2, 1, 1]).tolist(), "right angles"),
    "projective pose": ((*FRAME, "transform_matrix"), np.ones((4, 4)).tolist(), "transform_matrix"),
    "split": (("test_filenames",), {"a": 1}, "test_filenames"),
    "point cloud": (("ply_file_path",), "none.ply", r"none\.ply: no such file"),
}


def changed(original: Content, path: tuple[Any, ...], value: Any) -> Content:
    result = copy.deepcopy(original)
    node: Any = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return result


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path: Path, name: str) -> None:
    path, value, says = FAULTS[name]
    original = content(poses(2))
    del original["fl_y"]
    if path[-1] == "camera_angle_x":
        del original["fl_x"]
    write(tmp_path, original)
    (tmp_path / "transforms.json").write_text(json.dumps(changed(original, path, value)))
    with pytest.raises(BadSceneError, match=says):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "not JSON"), ("[1]", "no JSON object"), ("[" * 100_000, "not JSON"), ("\xff", "not JSON")]
)
def test_what_is_no_object_is_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "transforms.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadSceneError, match=says):
        load(tmp_path)


def test_a_point_cloud_is_not_mistaken_for_a_capture(tmp_path: Path) -> None:
    write_ply(
        GaussianScene(*(torch.zeros(1, n) for n in (3, 3, 4)), torch.zeros(1), torch.zeros(1, 1, 3)), tmp_path / "a.ply"
    )
    with pytest.raises(BadSceneError, match=r"transforms\.json.*transforms_train\.json"):
        load(tmp_path / "a.ply")


# ---- damage: loads, or raises BadSceneError, quickly; nothing else


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("victim"), content(poses(2)))


def survives(scene: Path, text: bytes) -> None:
    (scene / "transforms.json").write_bytes(text)
    start = time.perf_counter()
    try:
        cameras: Cameras = load(scene).cameras
    except BadSceneError:
        pass
    else:
        assert torch.isfinite(cameras.K).all()
        assert torch.isfinite(cameras.cam_from_world).all()
        identity = cameras.cam_from_world[:, :3, :3] @ cameras.cam_from_world[:, :3, :3].mT
        assert torch.allclose(identity, torch.eye(3), atol=1e-4)
    assert time.perf_counter() - start < 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_do_no_harm(victim: Path, data: st.DataObject) -> None:
    text = bytearray(json.dumps(content(poses(2))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        inserted = data.draw(
            st.sampled_from([b"", b"\0", b"\xff", b"{", b"]", b"1e999", b"NaN", b"-", b'"', b"9" * 20])
        )
        text[at : at + data.draw(st.integers(0, 8))] = inserted
    survives(victim, bytes(text))


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.floats(), max_size=4)
) | st.just({})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wrong_values_do_no_harm(victim: Path, data: st.DataObject) -> None:
    original = content(poses(2))
    keys = st.sampled_from(
        ["camera_model", "is_fisheye", "camera_angle_x", "w", "h", "k3", "test_filenames", *original]
    )
    inside = st.sampled_from([(*FRAME, key) for key in ("file_path", "transform_matrix", "fl_x", "w")])
    entry = st.tuples(st.just("frames"), st.just(0), st.just("transform_matrix"), st.integers(0, 3))
    path = data.draw(st.one_of(keys.map(lambda key: (key,)), inside, entry))
    survives(victim, json.dumps(changed(original, path, data.draw(VALUES))).encode())
