"""Scenes from plain photos: the cameras that took them are found again, up to a similarity."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from learn2splat.data.from_photos import (
    EXIF_IFD,
    FOCAL_LENGTH,
    ORIENTATION,
    Stopped,
    _copy_upright,
    _share_a_lens,
    scene_from_photos,
)
from learn2splat.data.photos import photo_size
from learn2splat.data.procedural.source import make_scene
from learn2splat.data.procedural.spec import ProceduralSpec
from learn2splat.data.registration import Registration
from learn2splat.data.sources import load_scene
from tests.test_cli import l2s

pytest.importorskip("pycolmap")


def save(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def misfit(found: np.ndarray, true: np.ndarray) -> float:
    """RMS distance after the best similarity, as a share of the spread (Umeyama 1991)."""
    found, true = found - found.mean(axis=0), true - true.mean(axis=0)
    u, values, vt = np.linalg.svd(true.T @ found)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (values * np.diagonal(sign)).sum() / (found**2).sum()
    return float(np.linalg.norm(scale * found @ (u @ sign @ vt).T - true) / np.linalg.norm(true))


def test_misfit_ignores_similarities_alone() -> None:
    rng = np.random.default_rng(0)
    points, turn = rng.normal(size=(9, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    assert misfit(points, 3 * points @ turn.T + 5) < 1e-12
    assert misfit(points, points * [1, 1, -1]) > 0.1


@pytest.mark.slow
def test_the_cameras_of_rendered_photos_are_found_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_scene(ProceduralSpec(seed=4, views=12, width=384, path="forward")).data
    for view, name in enumerate(made.image_names):
        path = here / "photos" / Path(name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.photos[view].numpy()).save(path)
    assert l2s("scene", "from-photos", "photos", "scene") == 0
    assert "l2s optimize --scene scene" in capsys.readouterr().out
    found = load_scene(here / "scene")
    views = [[Path(name).stem for name in made.image_names].index(Path(name).stem) for name in found.image_names]
    assert len(views) >= 10
    centers, true = found.cameras.centers_world.numpy(), made.cameras.take(views).centers_world.numpy()
    assert misfit(centers, true) < 0.03, "0.013 measured; 0.046 when each photo has a focal length of its own"
    assert found.cameras.K[:, 0, 0].unique().numel() == 1
    assert float(found.cameras.K[0, 0, 0] / made.cameras.K[0, 0, 0]) == pytest.approx(1.0, abs=0.02)
    assert misfit(centers, np.roll(true, 5, axis=0)) > 0.3, "so small a misfit is no chance"
    assert found.points is not None
    assert len(found.points) > 100
    assert l2s("scene", "from-photos", "photos", "scene") == 2, "what is there stays"


def test_what_does_not_fit_together_is_bad_input_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        save(here / "photos" / f"{seed}.png", seed=seed)
    assert l2s("scene", "from-photos", "photos", "scene", "--quiet") == 2
    message = capsys.readouterr().err
    assert "the photos do not fit together" in message
    assert "Traceback" not in message
    assert [path.name for path in here.iterdir()] == ["photos"]


def test_bad_folders_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert l2s("scene", "from-photos", "nowhere", "scene") == 2
    save(here / "few" / "a.png")
    assert l2s("scene", "from-photos", "few", "scene") == 2
    for name in ("b.png", "c.png"):
        save(here / "few" / name)
    assert l2s("scene", "from-photos", "few", "scene", "--matching", "magic") == 2
    (here / "few" / "c.png").write_bytes(b"junk")
    assert l2s("scene", "from-photos", "few", "scene") == 2
    captured = capsys.readouterr().err
    for part in ("nowhere is no folder", "holds 1 photos", "'magic'", "c.png cannot be decoded"):
        assert part in captured
    assert not (here / "scene").exists()


def test_a_stop_leaves_nothing_behind(here: Path) -> None:
    for seed in range(3):
        save(here / "photos" / f"{seed}.png", seed=seed)
    stages: list[str] = []
    with pytest.raises(Stopped):
        scene_from_photos(
            here / "photos",
            here / "scene",
            progress=lambda stage, done, total: stages.append(stage),
            stop=lambda: "features" in stages,
        )
    assert [path.name for path in here.iterdir()] == ["photos"]


def test_turned_photos_are_stored_upright_and_others_untouched(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.jpg")
    _copy_upright(plain, tmp_path / "out" / "plain.jpg")
    assert (tmp_path / "out" / "plain.jpg").read_bytes() == plain.read_bytes()
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 6, "maker"
    Image.open(plain).save(tmp_path / "turned.jpg", exif=exif)
    _copy_upright(tmp_path / "turned.jpg", tmp_path / "out" / "turned.jpg")
    assert photo_size(tmp_path / "out" / "turned.jpg") == (48, 64)
    with Image.open(tmp_path / "out" / "turned.jpg") as image:
        assert image.getexif()[ORIENTATION] == 1
        assert image.getexif()[0x010F] == "maker", "the lens is read from there"


def test_photos_share_a_lens_unless_something_tells_them_apart(tmp_path: Path) -> None:
    one, two, wide = (save(tmp_path / name) for name in ("1.jpg", "2.jpg", "3.jpg"))
    assert _share_a_lens([one, two, wide])
    save(wide, size=(80, 48))
    assert not _share_a_lens([one, two, wide])
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[FOCAL_LENGTH] = 35.0
    Image.open(one).save(tmp_path / "4.jpg", exif=exif)
    assert not _share_a_lens([one, tmp_path / "4.jpg"])


def test_advice_is_given_when_few_photos_have_a_pose() -> None:
    assert Registration(10, ("a", "b"), 5, 0.5, 1).advice == []
    advice = Registration(10, ("a.jpg", "b.jpg", "c.jpg"), 5, 0.5, 2).advice
    assert len(advice) == 1
    for part in ("only 7 of 10", "2 pieces", "c.jpg"):
        assert part in advice[0]


@pytest.mark.parametrize(
    ("doubtful", "told"),
    [
        ({"pieces": 3, "missing": ("c.jpg",)}, "fell into 3 pieces.*c.jpg"),
        ({"pieces": 3}, "3 beginnings were needed"),
        ({"error_px": 1.6}, "1.6 pixels"),
        ({"track": 2.4}, "2.4 photos on average"),
        ({"points_in": {"a.jpg": 49, "b.jpg": 50}}, "1 photos show fewer than 50 points.*a.jpg"),
    ],
)
def test_poses_that_are_doubtful_are_told_with_advice(doubtful: dict[str, Any], told: str) -> None:
    sound = Registration(10, (), 500, 0.5, 1, track=4.0, points_in={"b.jpg": 90})
    assert sound.advice == []
    (paragraph,) = replace(sound, **doubtful).advice
    assert re.search(told, paragraph)
    assert replace(sound, error_px=1.6, shrunk_by=2.0).advice == [], "in pixels of what features were sought in"
