"""RE10K / DL3DV chunks: cameras and photos arrive; nothing is executed; damage only raises."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from learn2splat.data import chunks
from learn2splat.data.base import BadSceneError, EncodedPhotos
from learn2splat.data.cache import LruCache
from learn2splat.data.sources import load_scene
from tests.test_cli import l2s

WIDTH, HEIGHT = 40, 24


def encoded(level: int) -> torch.Tensor:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (level, 2 * level, 0)).save(buffer, "PNG")
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())


def poses(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rotation = Rotation.random(count, rng).as_matrix()
    return np.concatenate([rotation, rng.normal(size=(count, 3, 1))], axis=2)


def clip(key: str = "5aca87f95a9412c6", count: int = 3) -> dict[str, Any]:
    intrinsics = np.tile([0.8, 1.4, 0.5, 0.51, 0, 0], (count, 1))
    cameras = torch.from_numpy(np.concatenate([intrinsics, poses(count).reshape(count, 12)], axis=1)).float()
    return {
        "key": key,
        "url": "",
        "timestamps": torch.arange(count),
        "cameras": cameras,
        "images": [encoded(10 * i) for i in range(count)],
    }


def write(folder: Path, *clips: Any) -> Path:
    torch.save(list(clips), folder / "000000.torch")
    return folder / "000000.torch"


def test_a_clip_arrives(tmp_path: Path) -> None:
    chunk = write(tmp_path, clip("a"), clip("b", 4))
    scene = load_scene(chunk / "b", test_every=0)
    assert (scene.name, len(scene.cameras), scene.points) == ("b", 4, None)
    assert torch.allclose(scene.cameras.cam_from_world[:, :3].double(), torch.from_numpy(poses(4)), atol=1e-6)
    expected = torch.tensor([[0.8 * WIDTH, 0, 0.5 * WIDTH], [0, 1.4 * HEIGHT, 0.51 * HEIGHT], [0, 0, 1]])
    assert torch.allclose(scene.cameras.K[2], expected)
    assert scene.photos[3][0, 0].tolist() == [30, 60, 0]
    small = load_scene(chunk / "b", max_size=20)
    assert torch.allclose(small.cameras.K[2], torch.diag(torch.tensor([0.5, 0.5, 1])) @ expected)
    assert small.photos[0].shape == (12, 20, 3)
    assert "starts from random points" in scene.warnings[0]


def test_photos_stay_encoded_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "PIXELS", LruCache(2 * 3 * WIDTH * HEIGHT, lambda value: value.nbytes))
    photos = load_scene(write(tmp_path, clip("a", 9)), test_every=0).photos
    assert [int(photos[view][0, 0, 0]) for view in range(9)] == [10 * view for view in range(9)]
    assert chunks.PIXELS.used_bytes == 2 * 3 * WIDTH * HEIGHT
    assert isinstance(photos, EncodedPhotos)
    assert photos.bytes_to_come == 0
    chunks.PIXELS.resize(1000 * 3 * WIDTH * HEIGHT)
    assert photos.bytes_to_come == len(photos) * 3 * WIDTH * HEIGHT
    assert photos[8] is photos[-1]


def test_one_clip_needs_no_key_and_several_are_named(tmp_path: Path) -> None:
    assert load_scene(write(tmp_path, clip())).name == clip()["key"]
    chunk = write(tmp_path, clip("a"), clip("b"))
    for path in (chunk, chunk / "c"):
        with pytest.raises(BadSceneError, match=r"2 clips \(a, b\); give .*000000\.torch/KEY"):
            load_scene(path)
    with pytest.raises(BadSceneError, match=r"no clip 'c' in it"):
        load_scene(chunk / "c")
    with pytest.raises(BadSceneError, match=r"holds some \(000000\.torch\)"):
        load_scene(tmp_path)


def test_chunks_are_known_by_their_content(tmp_path: Path) -> None:
    chunk = write(tmp_path, clip("a")).rename(tmp_path / "chunk")
    assert load_scene(chunk).name == load_scene(chunk / "a").name == "a"
    torch.save([clip()], tmp_path / "old", _use_new_zipfile_serialization=False)
    with pytest.raises(BadSceneError, match=r"old is no chunk of tensors \(a version of torch before 1\.6 wrote it"):
        load_scene(tmp_path / "old")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.png", b"")
    with pytest.raises(BadSceneError, match=r"photos\.zip is a file and no known scene format"):
        load_scene(tmp_path / "photos.zip")


def test_an_index_says_where_a_clip_is(tmp_path: Path) -> None:
    write(tmp_path, clip("a"), clip("b", 4)).rename(tmp_path / "first.torch")
    write(tmp_path, clip("c", 5))
    (tmp_path / "index.json").write_text(json.dumps({"a": "first.torch", "b": "first.torch", "c": "000000.torch"}))
    assert [len(load_scene(tmp_path / key).cameras) for key in "abc"] == [3, 4, 5]
    for path in (tmp_path, tmp_path / "d", tmp_path / "index.json"):
        with pytest.raises(BadSceneError, match=r"index\.json lists 3 clips \(a, b, c\); give .*/KEY"):
            load_scene(path)
    (tmp_path / "000000.torch").unlink()
    with pytest.raises(BadSceneError, match=r"000000\.torch cannot be read"):
        load_scene(tmp_path / "c")
    (tmp_path / "index.json").write_text(json.dumps({"a": "../first.torch"}))
    with pytest.raises(BadSceneError, match="does not exist"):
        load_scene(tmp_path / "a")


def test_a_clip_is_converted(tmp_path: Path) -> None:
    chunk = write(tmp_path, clip("a"), clip("b", 4))
    assert l2s("scene", "convert", chunk / "b", tmp_path / "b") == 0
    one, two = load_scene(chunk / "b", test_every=0), load_scene(tmp_path / "b", test_every=0)
    assert torch.allclose(one.cameras.K, two.cameras.K)
    assert torch.allclose(one.cameras.cam_from_world, two.cameras.cam_from_world, atol=1e-6)
    assert all(torch.equal(one.photos[view], two.photos[view]) for view in range(4))


FAULTS: dict[str, tuple[Any, str]] = {
    "no list": (3, "no list of clips"),
    "no key": ([{"cameras": 1}], "no list of clips"),
    "no cameras": ([{"key": "a"}], "'cameras' is no tensor"),
    "columns": ([clip() | {"cameras": torch.zeros(3, 12)}], "V x 18"),
    "photos": ([clip() | {"images": [encoded(1)]}], "one photo for each of 3"),
    "floats": ([clip() | {"images": [torch.zeros(9)] * 3}], "view 0: its photo is no tensor of bytes"),
    "junk": ([clip() | {"images": [torch.zeros(9, dtype=torch.uint8)] * 3}], "view 0: its photo cannot be decoded"),
    "NaN": ([clip() | {"cameras": torch.full((3, 18), torch.nan)}], "view 0: its camera is not finite"),
    "zero": ([clip() | {"cameras": torch.zeros(3, 18)}], "no focal length"),
    "pose": ([clip() | {"cameras": torch.ones(3, 18)}], "no rotation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path: Path, name: str) -> None:
    content, says = FAULTS[name]
    torch.save(content, tmp_path / "a.torch")
    with pytest.raises(BadSceneError, match=says):
        load_scene(tmp_path / "a.torch")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "sprung"))


def test_nothing_is_executed(tmp_path: Path) -> None:
    torch.save([clip() | {"url": Trap(tmp_path / "sprung")}], tmp_path / "a.torch")
    (tmp_path / "b.torch").write_bytes(pickle.dumps([Trap(tmp_path / "sprung")]))
    for name in ("a", "b"):
        with pytest.raises(BadSceneError, match="no chunk of tensors"):
            load_scene(tmp_path / f"{name}.torch")
    assert not (tmp_path / "sprung").exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_do_no_harm(tmp_path: Path, data: st.DataObject) -> None:
    path = write(tmp_path, clip(count=1))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    with suppress(BadSceneError):
        assert torch.isfinite(load_scene(path).cameras.K).all()
