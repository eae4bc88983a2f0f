"""Exports of phones: cameras that are written arrive as they were; damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from learn2splat.data.base import BadSceneError
from learn2splat.data.sources import load_scene
from tests.data.test_transforms import CX, CY, FX, FY, HEIGHT, WIDTH, poses

COUNT = 11


def opengl(pose: np.ndarray) -> np.ndarray:
    """[3, 4] of an OpenCV world-from-camera pose: its columns are the right, up and backward axes and the centre."""
    right, down, forward, center = pose[:3].T
    return np.stack([right, -down, -forward, center], axis=1)


def photo(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (level, 2 * level, 0)).save(path)


def polycam(folder: Path, corrected: str = "", offset: float = 0.0) -> Path:
    for index, pose in enumerate(poses(COUNT)):
        rows = opengl(pose) + offset * np.array([0, 0, 0, 1])
        content = {f"t_{row}{column}": rows[row, column] for row in range(3) for column in range(4)}
        content |= {"fx": FX, "fy": FY, "cx": CX, "cy": CY, "width": WIDTH, "height": HEIGHT, "blur_score": 99.5}
        file = folder / "keyframes" / f"{corrected}cameras" / f"{1000 + index}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        photo(folder / "keyframes" / f"{corrected}images" / f"{1000 + index}.png", index)
    return folder


def record3d(folder: Path, **changed: Any) -> Path:
    rows = []
    for index, pose in enumerate(poses(COUNT)):
        matrix = opengl(pose)
        rows.append([*Rotation.from_matrix(matrix[:, :3]).as_quat().tolist(), *matrix[:, 3].tolist()])
        photo(folder / "rgb" / f"{index}.png", index)
    K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
    content = {"w": WIDTH, "h": HEIGHT, "fps": 60, "K": K.T.flatten().tolist(), "poses": rows}
    (folder / "metadata.json").write_text(json.dumps(content | changed))
    return folder


@pytest.mark.parametrize("write", [polycam, record3d])
def test_cameras_arrive_as_they_were(tmp_path: Path, write: Any) -> None:
    scene = load_scene(write(tmp_path / "room"), test_every=0)
    expected = torch.from_numpy(np.linalg.inv(poses(COUNT)))
    assert scene.name == "room"
    assert torch.allclose(scene.cameras.cam_from_world.double(), expected, atol=1e-6)
    assert scene.cameras.K[5].tolist() == [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
    assert [int(scene.photos[view][0, 0, 0]) for view in range(COUNT)] == list(range(COUNT))
    assert scene.points is None
    assert "starts from random points" in scene.warnings[0]


def test_corrected_cameras_of_polycam_come_first(tmp_path: Path) -> None:
    polycam(tmp_path, offset=5.0)
    corrected = load_scene(polycam(tmp_path, "corrected_"), test_every=0)
    expected = torch.from_numpy(np.linalg.inv(poses(COUNT)))
    assert torch.allclose(corrected.cameras.cam_from_world.double(), expected, atol=1e-6)
    assert load_scene(tmp_path / "keyframes").name == tmp_path.name


def test_photos_of_polycam_that_are_missing_are_told(tmp_path: Path) -> None:
    polycam(tmp_path)
    (tmp_path / "keyframes/images/1003.png").unlink()
    scene = load_scene(tmp_path)
    assert len(scene.cameras) == COUNT - 1
    assert "1 photos are missing" in scene.warnings[1]
    for file in (tmp_path / "keyframes/images").iterdir():
        file.unlink()
    with pytest.raises(BadSceneError, match=r"none of the photos \(1000, .* was found in .*images"):
        load_scene(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("t_00", None, r"1000\.json: t_00 is None, not a finite number"),
        ("t_13", 1e40, "too far away"),
        ("t_11", 99.0, "axes of its pose are mirrored or not at right angles"),
        ("fx", "wide", "fx is 'wide'"),
        ("width", 0, "0x24 pixels is impossible"),
    ],
)
def test_faults_of_polycam_are_named(tmp_path: Path, key: str, value: Any, says: str) -> None:
    file = polycam(tmp_path) / "keyframes/cameras/1000.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(BadSceneError, match=says):
        load_scene(tmp_path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"poses": [[0, 0, 0, 1, 0, 0, 0]]}, "1 poses for 11 photos"),
        ({"poses": [[0, 0, 0, 0, 0, 0, 0]] * 11}, "pose 0 is .* not a rotation"),
        ({"poses": [[0, 0, 0, 1, 0, 0]] * 11}, "pose 0 is"),
        ({"poses": 3}, "poses is 3, not a list"),
        ({"K": [1, 2]}, r"K is \[1, 2\], not 9 finite numbers"),
        ({"h": float("nan")}, "h is nan, not a finite number"),
        ({"w": 1e9}, "pixels is impossible"),
    ],
)
def test_faults_of_record3d_are_named(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSceneError, match=says):
        load_scene(record3d(tmp_path, **changed))
