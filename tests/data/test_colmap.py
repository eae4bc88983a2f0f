"""COLMAP captures: round trips, faults that are named, damage that never does more than raise, real scenes."""

from __future__ import annotations

import math
import re
import shutil
import struct
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.colmap import ColmapSource
from learn2splat.data.colmap_model import read_model
from learn2splat.data.lens import MODELS_BY_NAME
from learn2splat.data.sources import load_scene

FILES = ("cameras", "images", "points3D")

Camera = tuple[int, str, int, int, tuple[float, ...]]
Registered = tuple[int, tuple[float, ...], int, str, int]
Point = tuple[tuple[float, float, float], tuple[int, int, int], int]


@dataclass(frozen=True)
class Model:
    """A model to write: cameras (id, model, width, height, params), images (id, quaternion and translation,
    camera, name, number of 2D points), points (position, colour, track length)."""

    cameras: tuple[Camera, ...] = ((4, "PINHOLE", 32, 24, (30.0, 31.0, 15.5, 12.0)),)
    images: tuple[Registered, ...] = (
        (2, (0.5, -0.5, 0.5, 0.5, 1.0, 2.0, 3.0), 4, "b.png", 3),
        (9, (1.0, 0.0, 0.0, 0.0, 0.0, 0.5, -1.0), 4, "a/c d.png", 0),
        (1, (0.6, 0.8, 0.0, 0.0, -4.0, 0.0, 2.0), 4, "a/a.png", 1),
    )
    points: tuple[Point, ...] = (((1.0, 2.0, 3.0), (255, 0, 51), 2), ((-1.5, 0.25, 9.0), (0, 102, 204), 0))
    extra: dict[str, bytes] = field(default_factory=dict)


def as_bytes(model: Model) -> dict[str, bytes]:
    numbers = {name: i for i, name in enumerate(MODELS_BY_NAME)}
    cameras = struct.pack("<Q", len(model.cameras))
    for camera_id, name, width, height, params in model.cameras:
        cameras += struct.pack(f"<IiQQ{len(params)}d", camera_id, numbers[name], width, height, *params)
    images = struct.pack("<Q", len(model.images))
    for image_id, pose, camera_id, name, observations in model.images:
        images += struct.pack("<I7dI", image_id, *pose, camera_id) + name.encode() + b"\0"
        images += struct.pack("<Q", observations) + struct.pack("<ddQ", 1.5, 2.5, 2**64 - 1) * observations
    points = struct.pack("<Q", len(model.points))
    for i, (position, color, track) in enumerate(model.points):
        points += struct.pack("<Q3d3BdQ", i, *position, *color, 0.5, track) + struct.pack("<II", 2, 0) * track
    return {"cameras.bin": cameras, "images.bin": images, "points3D.bin": points}


def as_text(model: Model) -> dict[str, bytes]:
    def join(*values: object) -> str:
        return " ".join(repr(value) if isinstance(value, float) else str(value) for value in values)

    cameras = ["# a comment", *(join(*camera[:4], *camera[4]) for camera in model.cameras)]
    images = ["# a comment", ""]
    for image_id, pose, camera_id, name, observations in model.images:
        images += [join(image_id, *pose, camera_id, name), " ".join(["1.5 2.5 -1"] * observations)]
    points = [join(i, *p, *c, 0.5, *(2, 0) * track) for i, (p, c, track) in enumerate(model.points)]
    texts = {"cameras.txt": cameras, "images.txt": images, "points3D.txt": points}
    return {name: "".join(line + "\n" for line in lines).encode() for name, lines in texts.items()}


def write(folder: Path, model: Model | None = None, *, text: bool = False, photos: bool = True) -> Path:
    model = model or Model()
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True, exist_ok=True)
    for name, content in {**(as_text(model) if text else as_bytes(model)), **model.extra}.items():
        (sparse / name).write_bytes(content)
    for image in model.images if photos else ():
        path = folder / "images" / image[3]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (image[0], 0, 0)).save(path)
    return folder


def load(path: Path, max_size: int = 1600, test_every: int = 0) -> SceneData:
    return ColmapSource().load(path, max_size=max_size, test_every=test_every)


def check_default(scene: SceneData) -> None:
    """Everything that the default `Model` says has arrived."""
    assert tuple(scene.image_names) == ("a/a.png", "a/c d.png", "b.png")
    assert [int(scene.photos[i].max()) for i in range(3)] == [1, 9, 2]
    poses = scene.cameras.cam_from_world
    assert torch.allclose(poses[1], torch.eye(4) + torch.tensor([[0, 0, 0, v] for v in (0, 0.5, -1, 0)]))
    # 2 acos(0.6) about +x; and the turn that sends x to -z... written out by Rodrigues' formula
    s, c = 0.96, -0.28
    assert torch.allclose(poses[0, :3, :3], torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]]), atol=1e-6)
    assert torch.allclose(poses[2, :3, :3], torch.tensor([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]]), atol=1e-6)
    assert poses[2, :3, 3].tolist() == [1, 2, 3]
    assert scene.cameras.K[0].tolist() == [[30, 0, 15.5], [0, 31, 12], [0, 0, 1]]
    assert (scene.cameras.width, scene.cameras.height) == (32, 24)
    assert scene.points is not None
    assert scene.points.positions_world.tolist() == [[1, 2, 3], [-1.5, 0.25, 9]]
    assert torch.allclose(scene.points.colors * 255, torch.tensor([[255.0, 0, 51], [0, 102, 204]]))
    assert scene.warnings == ()


# ---- round trips


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("layout", ["sparse/0", "sparse", ".", "itself"])
def test_own_bytes_arrive_from_every_layout(tmp_path: Path, text: bool, layout: str) -> None:
    scene = write(tmp_path / "tower", replace(Model(), extra={"rigs.bin": b"x", "frames.txt": b"y"}), text=text)
    if layout in ("sparse", "."):
        for file in (scene / "sparse" / "0").iterdir():
            shutil.move(file, scene / layout / file.name)
        (scene / "sparse" / "0").rmdir()
    loaded = load_scene(scene / "sparse" / "0" if layout == "itself" else scene, sources=[ColmapSource()], test_every=2)
    check_default(loaded)
    assert loaded.name == "tower"
    assert (loaded.train, loaded.test) == ([1], [0, 2])


@pytest.mark.parametrize("kind", ["binary", "text"])
@pytest.mark.parametrize("model", sorted(set(MODELS_BY_NAME) - {"EQUIRECTANGULAR"}))
def test_what_pycolmap_writes_is_read(tmp_path: Path, kind: str, model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera.create_from_model_name(5, model, 30.0, 32, 24)
    camera.params = camera.params * 1.01
    written = pycolmap.Reconstruction()
    written.add_camera_with_trivial_rig(camera)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0.1, 0.2, 0.3, 0.9]) / 0.95**0.5), np.array([1.0, 2.0, 3.0]))
    written.add_image_with_trivial_frame(pycolmap.Image(name="a b.png", camera_id=5, image_id=7), pose)
    written.add_point3D(np.array([1.0, 2.0, 3.0]), pycolmap.Track(), np.array([1, 2, 3], dtype=np.uint8))
    getattr(written, f"write_{kind}")(tmp_path)
    read = read_model(tmp_path)
    assert read.lenses[5].model == model
    assert np.allclose(read.lenses[5].params, camera.params, rtol=1e-15)
    assert np.allclose(read.images[0].cam_from_world[:3], written.images[7].cam_from_world().matrix(), atol=1e-14)
    assert read.points is not None
    assert (read.points.positions.tolist(), read.points.colors.tolist()) == ([[1, 2, 3]], [[1, 2, 3]])


def test_binary_is_preferred_to_text(tmp_path: Path) -> None:
    write(tmp_path, text=True)
    for file in (tmp_path / "sparse" / "0").iterdir():
        file.write_bytes(b"not read")
    check_default(load(write(tmp_path)))


def test_smaller_photos_than_calibrated_rescale_the_intrinsics(tmp_path: Path) -> None:
    camera = (4, "PINHOLE", 129, 97, (120.0, 124.0, 62.0, 48.0))
    scene = write(tmp_path, replace(Model(), cameras=(camera,)))
    (scene / "images").rename(scene / "images_4")
    K = load(scene, max_size=16).cameras.K[0]
    x, y = 16 / 129, 12 / 97
    assert torch.allclose(K, torch.tensor([[120 * x, 0, 62 * x], [0, 124 * y, 48 * y], [0, 0, 1]]))


def test_distorted_cameras_become_pinholes(tmp_path: Path) -> None:
    scene = load(write(tmp_path, replace(Model(), cameras=((4, "SIMPLE_RADIAL", 32, 24, (30.0, 15.5, 12.0, 0.1)),))))
    K = scene.cameras.K[0]
    assert K[0, 0] == K[1, 1] > 30
    assert K[:2, 2].tolist() == [15.5, 12.0]
    assert scene.photos[0].shape == (24, 32, 3)
    uncovered = ((4, "SIMPLE_RADIAL", 32, 24, (30.0, 90.0, 12.0, 0.1)),)
    assert "borders" in load(write(tmp_path, replace(Model(), cameras=uncovered))).warnings[0]


# ---- faults are named


def test_points_may_be_missing(tmp_path: Path) -> None:
    scene = write(tmp_path, replace(Model(), points=()))
    for says in ("has no points:", "no points3D file"):
        loaded = load(scene)
        assert loaded.points is None
        assert says in loaded.warnings[0]
        (scene / "sparse" / "0" / "points3D.bin").unlink(missing_ok=True)


def test_points_that_are_not_finite_or_there_before_are_dropped(tmp_path: Path) -> None:
    places = [(0.0, 1, 2), (5.0, 1, 2), (-0.0, 1, 2), (math.nan, 0, 0), (0, math.inf, 0), (1e300, 0, 0), (4.0, 1, 2)]
    model = replace(Model(), points=tuple((place, (9 * i, 0, 0), 0) for i, place in enumerate(places)))
    loaded = load(write(tmp_path, model))
    assert loaded.points is not None
    assert loaded.points.positions_world[:, 0].tolist() == [0, 5, 4], "the first of each, in order"
    assert (loaded.points.colors[:, 0] * 255).round().tolist() == [0, 9, 54]
    assert loaded.warnings == (
        "3 of 7 points are not finite and were left out",
        "1 of 7 points are duplicates and were left out",
    )


def test_missing_photos_are_reported_and_left_out(tmp_path: Path) -> None:
    scene = write(tmp_path)
    (scene / "images" / "a" / "a.png").unlink()
    loaded = load(scene)
    assert tuple(loaded.image_names) == ("a/c d.png", "b.png")
    (warning,) = loaded.warnings
    assert re.fullmatch(r"1 of 3 registered photos are missing in .*images and were left out: a/a\.png", warning)
    shutil.rmtree(scene / "images")
    with pytest.raises(BadSceneError, match=r"none of the 3 registered photos \(a/a.png, .*put them into"):
        load(scene)


def test_photos_that_cannot_be_used_are_named_at_load_time(tmp_path: Path) -> None:
    scene = write(tmp_path)
    (scene / "images" / "b.png").write_bytes(b"junk")
    truncated = scene / "images" / "a" / "a.png"
    truncated.write_bytes(truncated.read_bytes()[:50])
    Image.new("RGB", (32, 30)).save(scene / "images" / "a" / "c d.png")
    with pytest.raises(BadSceneError, match=r"3 of 3 photos.*a\.png cannot be decoded.*32x30.*32x24.*b\.png cannot"):
        load(scene)


def fault(cameras: Camera | None = None, image: tuple[int, object] | None = None) -> Model:
    """The default model with another camera, or with one field of the first image changed."""
    model = Model()
    if cameras:
        return replace(model, cameras=(cameras,))
    assert image
    first = list(model.images[0])
    first[image[0]] = image[1]
    return replace(model, images=(tuple(first), *model.images[1:]))  # type: ignore[arg-type]


FAULTS = {
    "NaN pose": (fault(image=(1, (1.0, 0, 0, 0, math.nan, 0, 0))), r"images.*b\.png.*no rigid transform"),
    "infinite pose": (fault(image=(1, (1.0, 0, 0, math.inf, 0, 0, 0))), "no rigid transform"),
    "zero quaternion": (fault(image=(1, (0.0, 0, 0, 0, 0, 0, 0))), "no rigid transform"),
    "zero focal length": (fault((4, "SIMPLE_PINHOLE", 32, 24, (0.0, 16.0, 12.0))), "cameras.*focal length.*impossible"),
    "NaN focal length": (fault((4, "SIMPLE_PINHOLE", 32, 24, (math.nan, 16.0, 12.0))), "not finite"),
    "no size": (fault((4, "SIMPLE_PINHOLE", 0, 24, (30.0, 16.0, 12.0))), "0x24 pixels is impossible"),
    "panorama": (fault((4, "EQUIRECTANGULAR", 32, 24, (32.0, 24.0))), "panorama"),
    "unknown camera": (fault(image=(2, 77)), "taken by camera 77"),
    "duplicate name": (fault(image=(3, "a/a.png")), r"two images are called 'a/a\.png'"),
    "name leaves": (fault(image=(3, "../../x.png")), "not a path inside"),
    "absolute name": (fault(image=(3, "/etc/x.png")), "not a path inside"),
    "two cameras": (replace(Model(), cameras=Model().cameras * 2), "camera 4.*twice"),
    "no cameras": (replace(Model(), cameras=()), "holds no camera"),
    "no images": (replace(Model(), images=()), "no registered image"),
}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_model_are_named(tmp_path: Path, name: str, text: bool) -> None:
    model, says = FAULTS[name]
    write(tmp_path, photos=True)
    shutil.rmtree(tmp_path / "sparse")
    with pytest.raises(BadSceneError, match=says):
        load(write(tmp_path, model, text=text, photos=False))


def test_faults_of_the_files_say_where(tmp_path: Path) -> None:
    sparse = write(tmp_path) / "sparse" / "0"
    whole = as_bytes(Model())
    cases = [
        (
            "images.bin",
            whole["images.bin"][:250],
            r"images\.bin is truncated at byte 250: image record 2 starts at byte 240",
        ),
        ("images.bin", struct.pack("<Q", 2**60) + whole["images.bin"][8:], r"announces 1152921504606846976 images"),
        ("cameras.bin", whole["cameras.bin"][:12] + b"\x63" + whole["cameras.bin"][13:], "unknown model number 99"),
        ("points3D.bin", whole["points3D.bin"] + b"123", "goes on for 3 bytes"),
        ("points3D.bin", whole["points3D.bin"][:-1], r"truncated at byte \d+: .* record 1"),
    ]
    for name, content, says in cases:
        (sparse / name).write_bytes(content)
        with pytest.raises(BadSceneError, match=says):
            load(tmp_path)
        (sparse / name).write_bytes(whole[name])
    (sparse / "images.bin").unlink()
    with pytest.raises(BadSceneError, match=r"neither images\.bin nor images\.txt"):
        load_scene(tmp_path, sources=[ColmapSource()])


def test_faults_of_the_text_say_which_line(tmp_path: Path) -> None:
    sparse = write(tmp_path, text=True) / "sparse" / "0"
    whole = as_text(Model())
    no_empty_lines = whole["images.txt"].replace(b"\n\n", b"\n")
    cases = [
        ("images.txt", no_empty_lines, r"images\.txt, line \d+: .*2D points"),
        ("images.txt", whole["images.txt"].replace(b" 2.0 3.0 4 b.png", b""), "line 3: expected IMAGE_ID QW"),
        ("cameras.txt", b"4 PINHOLE 32 x 1\n", r"cameras\.txt, line 1: expected CAMERA_ID"),
        ("cameras.txt", b"4 PINHOLE 32 24 30.0\n", "takes 4 parameters, found 1"),
        ("cameras.txt", b"4 PENHOLE 32 24 30.0\n", "unknown camera model 'PENHOLE'"),
        ("points3D.txt", b"1 2 3\n", r"points3D\.txt, line 1: expected POINT3D_ID"),
        ("points3D.txt", b"1 2 3 4 256 0 0 0.5\n", "colour"),
        ("points3D.txt", b"\xff\xfe1 2", "not UTF-8 text at byte 0"),
    ]
    for name, content, says in cases:
        (sparse / name).write_bytes(content)
        with pytest.raises(BadSceneError, match=says):
            load(tmp_path)
        (sparse / name).write_bytes(whole[name])
    check_default(load(tmp_path))


def test_paths_that_are_nothing_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.md").write_text("x")
    (tmp_path / "file").write_text("x")
    write(tmp_path / "many" / "tower")
    cases = {"gone": "does not exist", "empty": "empty folder", "file": "is a file", "other": r"notes\.md"}
    for name, says in {**cases, "many": r"holds some \(tower\)", "a\0b": "cannot be read|does not exist"}.items():
        with pytest.raises(BadSceneError, match=says) as error:
            load_scene(tmp_path / name, sources=[ColmapSource()])
        assert ColmapSource.looks_for in str(error.value)


# ---- damage: loads, or raises BadSceneError, quickly; nothing else


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("victim"))


def survives(scene: Path, name: str, content: bytes) -> None:
    sparse = scene / "sparse" / "0"
    for file in sparse.iterdir():
        file.unlink()
    for other, sound in (as_bytes if name.endswith(".bin") else as_text)(Model()).items():
        (sparse / other).write_bytes(content if other == name else sound)
    start = time.perf_counter()
    try:
        loaded = load(scene)
    except BadSceneError:
        pass
    else:
        assert torch.isfinite(loaded.cameras.K).all()
        assert torch.isfinite(loaded.cameras.cam_from_world).all()
        assert torch.isfinite(loaded.cameras.centers_world).all()
        assert loaded.points is None or torch.isfinite(loaded.points.positions_world).all()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("stem", FILES)
def test_every_truncation_of_a_binary_file_is_noticed(victim: Path, stem: str) -> None:
    whole = as_bytes(Model())[f"{stem}.bin"]
    for end in range(len(whole)):
        survives(victim, f"{stem}.bin", whole[:end])
        with pytest.raises(BadSceneError, match="truncated at byte"):
            load(victim)


@pytest.mark.parametrize("stem", FILES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_do_no_harm(victim: Path, stem: str, data: st.DataObject) -> None:
    name = f"{stem}.{data.draw(st.sampled_from(['bin', 'txt']))}"
    content = bytearray({**as_bytes(Model()), **as_text(Model())}[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        inserted = data.draw(st.sampled_from([b"", b"\0", b"\xff" * 8, b"\n", b" ", b"1e999", b"nan", b"-"]))
        removed = data.draw(st.integers(0, 8))
        content[at : at + removed] = inserted or bytes(data.draw(st.binary(max_size=8)))
    survives(victim, name, bytes(content))


@pytest.mark.parametrize("stem", FILES)
def test_every_flipped_byte_does_no_harm(victim: Path, stem: str) -> None:
    whole = as_bytes(Model())[f"{stem}.bin"]
    for at in range(len(whole)):
        for mask in (0xFF, 0x80, 0x01):
            survives(victim, f"{stem}.bin", whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
