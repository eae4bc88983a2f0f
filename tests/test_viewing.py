"""`l2s eval`, `l2s render` and the report of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from learn2splat.api import optimize
from learn2splat.session import Result
from tests.browser import look
from tests.eval.test_metrics import alexnet, reference
from tests.test_cli import l2s

SCENE = "procedural:seed=3,views=12,width=48"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A short run with its files; two of twelve views are held out."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return optimize(SCENE, out=folder, steps=15, eval_at=[0, 10], max_gaussians=200, sh_degree=1)


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert l2s(*arguments) == 0
    return capsys.readouterr().out


def test_eval_of_a_run_gives_the_numbers_that_it_recorded(run: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.folder is not None
    found = json.loads(told(capsys, "eval", run.folder, "--json"))
    last = run.metrics[-1]
    assert found["mean"] == {name: last[name] for name in ("psnr", "ssim", "flip", "lpips")}
    assert found["mean"]["lpips"] is None
    assert 0 < found["mean"]["flip"] < 1
    assert len(found["views"]) == 2
    for name in ("psnr", "ssim", "flip"):
        assert sum(view[name] for view in found["views"]) / 2 == found["mean"][name]
    text = told(capsys, "eval", run.folder).splitlines()
    assert len(text) == 1 + 2 + 1
    assert [line.split()[0] for line in text[1:3]] == [view["name"] for view in found["views"]]
    assert f"{last['psnr']:.3f}" in text[-1]
    as_flag = ["eval", "--scene", SCENE, "--ply", run.folder / "point_cloud.ply", "--json"]
    assert json.loads(told(capsys, *as_flag))["mean"] == found["mean"]
    smaller = json.loads(told(capsys, "eval", run.folder, "--json", "--max-size", "32", "renderer=reference"))
    assert smaller["mean"] != found["mean"]


def test_why_lpips_is_missing_is_told_once_and_is_no_warning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert l2s("optimize", "--scene", SCENE, "--steps", "2", "--max-gaussians", "50", "--out", "run") == 0
    printed = "".join(capsys.readouterr())
    assert printed.count("LPIPS") == 1
    assert "warning" not in printed
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert (len(summary["notes"]), summary["warnings"]) == (1, [])
    assert l2s("eval", "run") == 0
    assert capsys.readouterr().err.count("LPIPS") == 1


def test_eval_with_weights_of_lpips(run: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.folder is not None
    save_file(reference(alexnet)[0], tmp_path / "weights.safetensors")
    found = json.loads(told(capsys, "eval", run.folder, "--json", f"lpips={tmp_path / 'weights.safetensors'}"))
    assert found["mean"]["lpips"] > 0
    assert found["warnings"] == []
    l2s("eval", run.folder, "lpips=nothing")
    assert capsys.readouterr().err.count("LPIPS is not measured") == 1
    (tmp_path / "junk.safetensors").write_text("junk")
    assert l2s("eval", run.folder, f"lpips={tmp_path / 'junk.safetensors'}") == 2
    assert "junk.safetensors" in capsys.readouterr().err


def test_a_film_has_the_pictures_that_were_asked_for(
    run: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.folder is not None
    film, folder = tmp_path / "film.mp4", tmp_path / "pictures"
    assert "13 pictures of 48 x 36" in told(capsys, "render", run.folder, "--out", film, "--frames", "13")
    with av.open(film) as container:
        assert sum(1 for _ in container.decode(container.streams.video[0])) == 13
    told(capsys, "render", run.folder, "--out", folder, "--frames", "12", "--path", "views")
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    assert len(pictures) == 12
    first = np.asarray(Image.open(sorted((run.folder / "renders").iterdir())[0]))[:, 48:]  # beside the photo
    assert np.abs(pictures[0].astype(int) - first.astype(int)).max() <= 1  # view 0 is a held-out one
    assert l2s("render", run.folder, "--out", folder) == 2
    alone = ["render", "--ply", run.folder / "point_cloud.ply", "--path", "orbit", "--frames", "2"]
    assert "2 pictures of 960 x 720" in told(capsys, *alone, "--out", tmp_path / "alone.mp4")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval"], 2, "--ply FILE"),
        (["eval", SCENE], 2, "--ply FILE"),
        (["eval", "a", "b"], 2, "a and b"),
        (["eval", "no/such/folder", "--ply", "none.ply"], 2, "none.ply"),
        (["eval", "--ply", "none.ply"], 2, "none.ply"),
        (["render", SCENE, "--ply", "none.ply"], 2, "--out"),
        (["render", SCENE, "--ply", "none.ply", "--out", "x", "--path", "spiral"], 2, "spiral"),
        (["render", SCENE, "--ply", "none.ply", "--out", "x", "--frames", "0"], 2, "frames"),
    ],
)
def test_bad_input_is_one_clear_message(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert l2s(*arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_ply_without_photos_cannot_be_measured(run: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.folder is not None
    assert l2s("eval", "--ply", run.folder / "point_cloud.ply") == 2
    assert "--scene PATH" in capsys.readouterr().err


def test_the_report_shows_every_view_and_needs_no_network(run: Result) -> None:
    assert run.folder is not None
    page = run.folder / "report.html"
    text = page.read_text()
    shown = re.findall(r"<figcaption><b>([^<]*)</b>", text)
    assert shown == [f"{path.stem}.png" for path in sorted((run.folder / "renders").iterdir())]
    assert not re.findall(r"(?:src|href)=\"(https?:[^\"]*)\"|url\((https?:[^)]*)\)|@import", text)
    assert text.count("LPIPS is not measured") == 1
    assert page.stat().st_size < 4e6


def test_a_browser_shows_the_report_and_its_sliders_move(run: Result, tmp_path: Path) -> None:
    assert run.folder is not None
    text = (run.folder / "report.html").read_text()
    dragged = text.replace(
        "</body>",
        """<script>for (const slider of document.querySelectorAll("input[type=range]"))
        { slider.value = 20; slider.dispatchEvent(new Event("input")); }</script></body>""",
    )
    (tmp_path / "dragged.html").write_text(dragged)
    elements = look(tmp_path / "dragged.html", tmp_path / "page.png", (1200, 2200))
    assert len(re.findall(r'class="compare" style="--cut: 20%;"', elements)) == 2
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert pixels.shape == (2200, 1200, 3)
    assert pixels.std() > 10


def test_a_report_of_many_views_stays_small() -> None:
    """The pictures of all views together have a bounded number of pixels."""
    from learn2splat.eval.pictures import shrunk
    from learn2splat.eval.report import MAPS_SHARE, PIXELS

    picture = torch.rand(300, 400, 3)
    for views in (1, 40, 300):
        pixels = PIXELS / views / (2 + 3 * MAPS_SHARE)
        small = shrunk(picture, pixels)
        assert small.shape[0] * small.shape[1] <= 1.03 * pixels or small.shape == picture.shape
        assert small.shape[1] / small.shape[0] == pytest.approx(4 / 3, rel=0.03)
