"""Where runs start: predictions through the command line, and what is said when there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from learn2splat import checkpoint
from learn2splat.cameras import Cameras
from learn2splat.data.sources import load_scene
from learn2splat.errors import UserError
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.learned import pretrained
from learn2splat.optim.learned.pretrained import INITIALISER, save_pretrained
from learn2splat.predict import views
from learn2splat.predict.base import Prediction
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.predict.kind import PredictionKind
from learn2splat.predict.saved import SavedPrediction, save_prediction
from learn2splat.predict.views import predicted
from learn2splat.render.cpu import CpuRenderer
from learn2splat.scene.gaussians import sh0_to_rgb
from learn2splat.scene.ply import read_ply, write_ply
from learn2splat.scene_loss import SceneLoss
from learn2splat.start import head_start, load_initialiser, load_updater, start_prediction
from tests.conftest import random_scene, ring_cameras
from tests.data import test_transforms as transforms
from tests.test_cli import l2s
from tests.test_rollout import capture, start_scene

SCENE = "procedural:seed=3,views=9,width=32"
SMALL = {"width": 8, "planes": 6, "groups": 2, "neighbours": 3, "blocks": 1}
FIELDS = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")
TARGET = f"{CompactInitialiser.__module__}.{CompactInitialiser.__name__}"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of an initialiser."""
    net = CompactInitialiser(**SMALL)
    save_pretrained(net, {"_target_": TARGET, **SMALL}, tmp_path / "net", {}, INITIALISER)
    return tmp_path / "net"


def prediction() -> Prediction:
    scene = random_scene(12, degree=1).to(dtype=torch.float32)
    return Prediction(scene, torch.rand(12, 5), scene.map(torch.square))


def test_a_prediction_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = prediction()
    save_prediction(one, tmp_path / "saved")
    adapter = load_initialiser(str(tmp_path / "saved"))
    assert isinstance(adapter, SavedPrediction)
    two = adapter(torch.rand(2, 16, 24, 3), ring_cameras(2, 24, 16))
    assert one.precision is not None
    assert two.precision is not None
    for given, found in ((one.scene, two.scene), (one.precision, two.precision)):
        for name, tensor in given.items():
            assert torch.equal(getattr(found, name), tensor), name
    assert one.features is not None
    assert two.features is not None
    assert torch.equal(one.features, two.features)
    save_prediction(Prediction(one.scene), tmp_path / "bare")
    bare = SavedPrediction(tmp_path / "bare").prediction
    assert bare.features is None
    assert bare.precision is None


def test_what_is_no_prediction_is_named(tmp_path: Path) -> None:
    scene = prediction().scene
    with pytest.raises(ValueError, match=r"features has shape \(3, 5\), expected \(12, C\)"):
        Prediction(scene, torch.rand(3, 5))
    with pytest.raises(ValueError, match=r"precision\.means has shape \(11, 3\), expected \(12, 3\)"):
        Prediction(scene, precision=scene.take(torch.arange(11)))
    with pytest.raises(checkpoint.BadCheckpointError, match="not a readable checkpoint"):
        load_initialiser(str(tmp_path))
    checkpoint.save(tmp_path / "strange", "prediction", {"features": torch.rand(3, 2)}, {})
    with pytest.raises(checkpoint.BadCheckpointError, match="lacks scene/"):
        load_initialiser(str(tmp_path / "strange"))
    save_prediction(Prediction(scene.map(lambda tensor: tensor * torch.nan)), tmp_path / "nan")
    with pytest.raises(checkpoint.BadCheckpointError, match="not finite"):
        load_initialiser(str(tmp_path / "nan"))
    checkpoint.save(tmp_path / "other", "optimizer", {"features": torch.rand(3, 2)}, {})
    with pytest.raises(checkpoint.BadCheckpointError, match="'optimizer', expected 'initialiser'"):
        load_initialiser(str(tmp_path / "other"))
    with pytest.raises(UserError, match="no initialiser 'nothing'"):
        load_initialiser("nothing")


def test_without_weights_it_says_how_to_get_some(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    assert l2s("optimize", "--scene", SCENE, "--init", "predict", "--optimizer", "adam", "--quiet") == 2
    assert "make train-predict" in capsys.readouterr().err
    with pytest.raises(UserError, match="make train-resplat"):
        load_updater("")


@pytest.mark.parametrize("kind", ["net", "saved"])
def test_a_run_starts_from_a_prediction(kind: str, trained: Path, here: Path) -> None:
    if kind == "saved":
        save_prediction(prediction(), here / "saved")
    arguments = ["--scene", SCENE, "--init", f"predict:{kind}", "--steps", "0", "--sh-degree", "2", "--quiet"]
    assert l2s("optimize", *arguments, "--views", "sparse:3", "--out", "run") == 0
    written = read_ply(here / "run" / "point_cloud.ply")
    assert written.sh_degree == 2
    if kind == "saved":
        torch.testing.assert_close(written.means, prediction().scene.means)
    else:
        assert len(written) == 3 * 8 * 6
        assert l2s("optimize", "--resume", "--out", "run", "--steps", "2", "--quiet") == 0


def test_many_views_are_thinned_and_large_photos_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    @dataclass
    class Spy:
        long_side: int | None = None

        def __call__(self, images: torch.Tensor, cameras: Cameras) -> Prediction:
            assert images.shape == (len(cameras), cameras.height, cameras.width, 3)
            seen.append(tuple(images.shape[:3]))
            return prediction()

    data = load_scene("procedural:seed=100002,views=20,width=32", max_size=32, test_every=0)
    predicted(data, data.train, Spy())
    predicted(data, data.train[:5], Spy(40))
    predicted(data, data.train[:5], Spy(24))
    monkeypatch.setattr(views, "MOST_PIXELS", 5 * 16 * 12)
    predicted(data, data.train[:5], Spy(24))
    assert seen == [(views.MOST_VIEWS, 24, 32), (5, 24, 32), (5, 18, 24), (5, 12, 16)]
    with pytest.raises(UserError, match="photos of 2 sizes"):
        predicted(capture([(32, 24)] * 3 + [(16, 12)] * 3), range(6), Spy())


def test_a_prediction_is_thinned_to_what_is_allowed(trained: Path) -> None:
    data = capture()
    found = start_prediction(data, data.train[:2], f"predict:{trained}", max_gaussians=50)
    everything = start_prediction(data, data.train[:2], f"predict:{trained}")
    assert (len(found.scene), found.scene.sh_degree) == (50, 3)
    assert found.features is not None
    assert everything.features is not None
    rows = torch.cdist(found.scene.means, everything.scene.means).argmin(dim=1)
    assert torch.equal(found.features, everything.features[rows])
    with pytest.raises(UserError, match="1 views"):
        start_prediction(replace(data, train=[0]), [0], f"predict:{trained}")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("predict", PredictionKind()),
        ("predict:net", PredictionKind("net")),
        ("predict+refine", PredictionKind("", True)),
        ("predict:net+refine:up", PredictionKind("net", True, "up")),
        ("predict:a/predict+refine/net", PredictionKind("a/predict+refine/net")),
        ("predict:/a b/x+refine:/b/y", PredictionKind("/a b/x", True, "/b/y")),
        *((kind, None) for kind in ("sfm", "predict+refinex", "predictor", "predict:", "ply:a/predict+refine/x.ply")),
    ],
)
def test_what_asks_for_a_prediction(kind: str, expected: PredictionKind | None) -> None:
    assert PredictionKind.parse(kind) == expected
    assert expected is None or str(expected) == kind
    assert (head_start(kind) > 0) == (expected is not None and expected.is_refined)


def test_only_predictions_are_refined(here: Path) -> None:
    data = capture()
    with pytest.raises(UserError, match=r"init=random\+refine: only predictions can be refined"):
        start_prediction(data, data.train, "random+refine")
    with pytest.raises(UserError, match=r"init=predict\+refinex: give predict\[:FOLDER\]\[\+refine\[:FOLDER\]\]"):
        start_prediction(data, data.train, "predict+refinex")
    folder = here / "predict+refine"
    folder.mkdir()
    write_ply(start_scene(), folder / "a.ply")
    assert len(start_prediction(data, data.train, f"ply:{folder / 'a.ply'}").scene) == len(start_scene())


def test_only_updaters_refine() -> None:
    with pytest.raises(UserError, match=r"\+refine:learned-rule: that optimizer is no updater of predictions"):
        load_updater("learned-rule")


def test_a_refinement_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("full")

    data = load_scene("procedural:seed=100002,views=8,width=32", max_size=32, test_every=0)
    on = SceneLoss(data, CpuRenderer(), PhotometricLoss())
    monkeypatch.setattr(SceneLoss, "rendered", full)
    with pytest.raises(MemoryError, match="out of memory"):
        start_prediction(data, data.train[:3], "predict+refine", scene_loss=on)


def test_a_scene_without_points_starts_from_those_of_a_file_or_at_random(here: Path) -> None:
    transforms.write(here / "room", transforms.content(transforms.poses(9)))
    rows = ["0 0 1 255 0 0", "0 1 2 0 255 0", "1 0 3 0 0 255", "1 1 1 9 9 9"]
    names = "".join(f"property {kind}\n" for kind in FIELDS)
    header = f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{names}end_header\n"
    (here / "points.ply").write_text(header + "\n".join(rows) + "\n")
    run = ["optimize", "--scene", "room", "--steps", "0", "--max-gaussians", "50", "--quiet"]
    assert l2s(*run, "--init", "ply:points.ply", "--out", "file") == 0
    start = read_ply(here / "file" / "point_cloud.ply")
    assert start.means.tolist() == [[0, 0, 1], [0, 1, 2], [1, 0, 3], [1, 1, 1]]
    assert torch.allclose(sh0_to_rgb(start.sh[:, 0])[0], torch.tensor([1.0, 0, 0]), atol=1e-6)
    assert l2s(*run, "--out", "random") == 0
    assert len(read_ply(here / "random" / "point_cloud.ply")) == 50
    assert l2s(*run, "--init", "sfm", "--out", "none") == 2
    assert not (here / "none").exists()
