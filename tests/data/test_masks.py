"""Masks of captures: what they hide reaches no pixel that is used, through undistortion, shrinking and conversion."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.resize import shrink
from learn2splat.data.sources import load_scene
from learn2splat.survey import report
from tests.data import test_colmap as colmap
from tests.data.test_transforms import HEIGHT, WIDTH, content, load, poses, write
from tests.test_cli import l2s

DISTORTED = {"k1": 0.08, "k2": -0.05, "p1": 0.004, "p2": -0.003}


def hidden_disc(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width]
    return np.asarray((x - 0.4 * width) ** 2 + (y - 0.6 * height) ** 2 < (0.3 * height) ** 2)


def masked_capture(folder: Path, garbage: int, size: tuple[int, int] = (96, 72), **lens: float) -> Path:
    """Two photos of noise, the first with a mask over other noise that depends on ``garbage``."""
    width, height = size
    shape = {"w": width, "h": height, "fl_x": 90.0, "fl_y": 92.0, "cx": 0.5 * width - 1, "cy": 0.5 * height + 1}
    written = content(poses(2), **shape, **lens)
    written["frames"][0]["mask_path"] = "masks/0.png"
    write(folder, written)
    hidden = hidden_disc(height, width)
    for view in range(2):
        pixels = np.random.default_rng(view).integers(0, 256, (height, width, 3), dtype=np.uint8)
        if view == 0:
            pixels[hidden] = np.random.default_rng(garbage).integers(0, 256, (hidden.sum(), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{view}.png")
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)).save(folder / "masks" / "0.png")
    return folder


def used(scene: SceneData, view: int) -> torch.Tensor:
    assert scene.masks is not None
    return scene.masks[view]


def assert_hides(one: SceneData, two: SceneData) -> None:
    """Captures that differ only under their masks show the same where they are used, and differ elsewhere."""
    mask = used(one, 0)
    assert mask.shape == one.photos[0].shape[:2]
    assert 0.4 < mask.float().mean() < 0.9
    assert torch.equal(mask, used(two, 0))
    assert torch.equal(one.photos[0][mask], two.photos[0][mask])
    assert not torch.equal(one.photos[0], two.photos[0])
    assert used(one, 1).all()


@pytest.mark.parametrize("lens", [{}, DISTORTED], ids=["pinhole", "distorted"])
@pytest.mark.parametrize("max_size", [1600, 61, 40])
def test_nothing_hidden_reaches_a_used_pixel(tmp_path: Path, lens: dict[str, float], max_size: int) -> None:
    scenes = [load(masked_capture(tmp_path / str(g), g, **lens), max_size=max_size) for g in (1, 2)]
    assert_hides(*scenes)
    assert torch.equal(used(pickle.loads(pickle.dumps(scenes[0])), 0), used(scenes[0], 0))


def test_a_mask_as_large_as_its_view_is_kept_as_it_is(tmp_path: Path) -> None:
    scene = load(masked_capture(tmp_path, 1))
    assert np.array_equal(~used(scene, 0).numpy(), hidden_disc(72, 96))


def test_shrinking_hides_no_less(tmp_path: Path) -> None:
    assert_hides(*(shrink(load(masked_capture(tmp_path / str(g), g)), 50) for g in (1, 2)))


@pytest.mark.parametrize("lens", [{}, DISTORTED], ids=["pinhole", "distorted"])
def test_masks_survive_conversion(here: Path, lens: dict[str, float]) -> None:
    scene = load(masked_capture(here / "from", 1, **lens))
    assert l2s("scene", "convert", "from", "to") == 0
    converted = load_scene(here / "to")
    assert (here / "to" / "masks" / "images" / "0.png.png").is_file()
    assert torch.equal(used(converted, 0), used(scene, 0))
    assert used(converted, 1).all()
    assert not any("mask" in warning for warning in converted.warnings)


def test_captures_without_masks_have_none(tmp_path: Path) -> None:
    assert load(write(tmp_path, content(poses(2)))).masks is None


@pytest.mark.parametrize("name", ["b.png.png", "b.png"])
def test_colmap_masks_lie_beside_the_photos(tmp_path: Path, name: str) -> None:
    colmap.write(tmp_path)
    assert colmap.load(tmp_path).masks is None
    (tmp_path / "masks").mkdir()
    hidden = hidden_disc(24, 32)
    Image.fromarray(np.where(hidden, 0, 7).astype(np.uint8)).save(tmp_path / "masks" / name)
    scene = colmap.load(tmp_path)
    assert np.array_equal(~used(scene, 2).numpy(), hidden)
    assert used(scene, 0).all()
    assert "2 of 3 photos have no mask" in scene.warnings[0]


def test_dynamic_masks_of_instant_ngp_hide_what_is_not_black(tmp_path: Path) -> None:
    named = load(masked_capture(tmp_path / "named", 1))
    folder = masked_capture(tmp_path / "dynamic", 1)
    written = json.loads((folder / "transforms.json").read_text())
    del written["frames"][0]["mask_path"]
    (folder / "transforms.json").write_text(json.dumps(written))
    inverted = Image.eval(Image.open(folder / "masks" / "0.png"), lambda level: 255 - level)
    inverted.save(folder / "images" / "dynamic_mask_0.png")
    dynamic = load(folder)
    assert len(dynamic.cameras) == 2
    assert all(torch.equal(used(named, view), used(dynamic, view)) for view in range(2))


def test_the_survey_tells_of_masks_and_of_those_that_hide_most(tmp_path: Path) -> None:
    text = report(load(masked_capture(tmp_path, 1)))
    assert "masks    1 of 2 photos, hiding 21 to 21 %" in text
    mask = Image.open(tmp_path / "masks" / "0.png")
    Image.eval(mask, lambda value: 255 - value).save(tmp_path / "masks" / "0.png")
    assert "suspicious: masks hide more than half of 1 photos (images/0.png)" in report(load(tmp_path))


@pytest.mark.parametrize(
    ("mask", "told"),
    [(None, "has no mask .*masks/0.png"), ((WIDTH, HEIGHT + 1), "is 32x24 pixels, but its mask .* is 32x25")],
)
def test_masks_that_are_missing_or_misshapen_are_named(tmp_path: Path, mask: tuple[int, int] | None, told: str) -> None:
    written = content(poses(2))
    written["frames"][0]["mask_path"] = "masks/0.png"
    write(tmp_path, written)
    (tmp_path / "masks").mkdir()
    if mask is not None:
        Image.new("L", mask, 255).save(tmp_path / "masks" / "0.png")
    with pytest.raises(BadSceneError, match=told):
        load(tmp_path)


@pytest.mark.parametrize("value", [3, "../0.png", ["a"]])
def test_a_mask_path_is_a_path_inside_the_capture(tmp_path: Path, value: object) -> None:
    write(tmp_path, written := content(poses(1)))
    written["frames"][0]["mask_path"] = value
    (tmp_path / "transforms.json").write_text(json.dumps(written))
    with pytest.raises(BadSceneError, match="mask_path"):
        load(tmp_path)


def test_a_mask_that_hides_everything_or_broke_since_is_told(tmp_path: Path) -> None:
    scene = load(masked_capture(tmp_path, 1))
    Image.new("L", (96, 72), 0).save(tmp_path / "masks" / "0.png")
    with pytest.raises(BadSceneError, match="hides all of"):
        used(scene, 0)
    Image.new("L", (9, 9), 255).save(tmp_path / "masks" / "0.png")
    with pytest.raises(BadSceneError, match="changed its size"):
        used(scene, 0)
    (tmp_path / "masks" / "0.png").write_bytes(b"nothing")
    with pytest.raises(BadSceneError, match="cannot be decoded"):
        used(scene, 0)
