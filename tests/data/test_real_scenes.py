"""Real captures: points reproject onto their observations, to the error that the scenes' README states."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from learn2splat.data.colmap import ColmapSource
from learn2splat.data.sources import load_scene

SCENES = Path(os.environ.get("L2S_SCENES", Path(__file__).resolve().parents[3] / "shared" / "scenes"))
# mean reprojection error in pixels at a long side of 1000, from the scenes' README
REAL = {"banana": 0.228, "brighton_beach": 0.243, "fox": 0.645, "monstree": 0.497, "mother_child": 0.346}
REAL |= {"sceaux": 0.297}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("max_size", [512, 200])
def test_real_points_reproject_onto_their_observations(name: str, max_size: int) -> None:
    if not (SCENES / name).is_dir():
        pytest.skip(f"real scene {SCENES / name} is not here; set L2S_SCENES to the folder of scenes")
    pycolmap = pytest.importorskip("pycolmap")
    scene = load_scene(SCENES / name, max_size=max_size, sources=[ColmapSource()])
    assert scene.points is not None
    assert max(int(scene.cameras.widths.max()), int(scene.cameras.heights.max())) == max_size
    assert scene.photos[0].shape == (int(scene.cameras.heights[0]), int(scene.cameras.widths[0]), 3)
    observed = pycolmap.Reconstruction(SCENES / name / "sparse" / "0")
    errors = []
    for image in observed.images.values():
        view = list(scene.image_names).index(image.name)
        pose, K = scene.cameras.cam_from_world[view].double(), scene.cameras.K[view].double()
        seen = [point for point in image.points2D if point.has_point3D()]
        world = torch.tensor(np.array([observed.points3D[point.point3D_id].xyz for point in seen]))
        pixels = (world @ pose[:3, :3].T + pose[:3, 3]) @ K.T
        assert (pixels[:, 2] > 0).all()
        pixels = pixels[:, :2] / pixels[:, 2:]
        size = torch.stack([scene.cameras.widths[view], scene.cameras.heights[view]])
        calibrated = torch.tensor([float(image.camera.width), float(image.camera.height)])
        measured = torch.tensor(np.array([point.xy for point in seen])) * size / calibrated
        errors.append((pixels - measured).norm(dim=-1))
        assert ((pixels > -2) & (pixels < size + 2)).all(dim=1).double().mean() > 0.99
    expected = REAL[name] * max_size / 1000
    assert 0.2 * expected < float(torch.cat(errors).median()) < 1.1 * expected
    assert float(torch.cat(errors).mean()) == pytest.approx(expected, rel=0.25)


def _present(name: str) -> Path:
    if not (SCENES / name).is_dir():
        pytest.skip(f"real scene {SCENES / name} is not here; set L2S_SCENES to the folder of scenes")
    return SCENES / name


def test_the_distorted_fox_is_the_undistorted_one() -> None:
    """The same photos with another calibration: undistorted on load, they look like those that COLMAP undistorted."""
    distorted, plain = load_scene(_present("fox_transforms"), max_size=200), load_scene(_present("fox"), max_size=200)
    assert len(distorted.cameras) == len(plain.cameras) == 50
    assert distorted.points is None
    assert len(distorted.test) == len(plain.test) == 7
    for view in (0, 25):
        one, two = (
            torch.nn.functional.interpolate(photo.permute(2, 0, 1)[None].float(), size=(60, 34), mode="area")
            for photo in (distorted.photos[view], plain.photos[view])
        )
        assert float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1]) > 0.95


def test_lego_lies_over_the_background_that_is_asked_for() -> None:
    scene = load_scene(_present("lego_blender"), max_size=100)
    assert len(scene.cameras) == 100
    assert set(scene.train) | set(scene.test) == set(range(100))
    assert not set(scene.train) & set(scene.test)
    white, black = (scene.over(colour).photos[0] for colour in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    assert white[0, 0].tolist() == [255, 255, 255]
    assert black[0, 0].tolist() == [0, 0, 0]
    middle = (slice(45, 55), slice(45, 55))
    assert torch.equal(white[middle], black[middle])  # the model itself is opaque
