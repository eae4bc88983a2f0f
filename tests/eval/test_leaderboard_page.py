"""The files of a leaderboard: plugins in them, pictures, pages that open without a network, scripts that run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from learn2splat.cli import main
from learn2splat.eval.store import RowStore
from tests.browser import look
from tests.eval.test_board import SCENES, SMALL, board

MOVE_SLIDER = """<script>
const slider = document.querySelector(".compare input");
slider.value = 20;
slider.dispatchEvent(new Event("input"));
addEventListener("load", () => {
  const box = document.querySelector(".compare");
  box.dataset.widths = [...box.querySelectorAll("img")].map(image => image.naturalWidth).join(" ");
});
</script>"""


def test_the_example_joins_and_the_pages_need_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--scenes", SCENES[0], "--settings", "dense,sparse:3", "--optimizers", "adam", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="0"):
        main(["leaderboard", *flags, "--plugin", "examples.sign_descent:SignDescent", *SMALL])
    assert capsys.readouterr().out.endswith("leaderboard.html\n")
    pages = [tmp_path / "leaderboard.html", *(tmp_path / "scenes").iterdir()]
    assert len(pages) == 2
    for page in pages:
        text = page.read_text()
        assert "SignDescent" in text
        outside = re.findall(r"(?:src|href)=\"(https?:[^\"]*)\"|url\((https?:[^)]*)\)|@import", text)
        assert not outside
    assert pages[1].read_text().count("data:image/jpeg") == 2 * 3  # photo and two methods, in two settings
    lines = (tmp_path / "leaderboard.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 3
    assert "| SignDescent |" in (tmp_path / "leaderboard.md").read_text()


def test_pictures_of_captures_are_kept_only_on_request(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    with pytest.raises(SystemExit, match="0"):
        main(["scene", "make", "--views", "12", "--width", "32", "--out", str(scene)])
    for choice, count in (("procedural", 0), ("all", 2)):
        out = tmp_path / choice
        found = board(out, f"pictures={choice}", scenes=(str(scene),))
        found.measure()
        found.write()
        (page,) = (out / "scenes").iterdir()
        assert page.read_text().count("data:image/jpeg") == count
        assert len(RowStore(out / "steps.sqlite").pictures(found.tasks[0].key)) == count


def test_a_browser_shows_sorts_and_compares(tmp_path: Path) -> None:
    """The scripts run: a click sorts, the select chooses one table, the slider has both of its pictures."""
    found = board(tmp_path / "out", optimizers="adam,sgd,adam-tuned", scenes=SCENES)
    found.measure()
    page = found.write()
    assert page is not None
    clicked = page.read_text().replace(
        "</body>", "<script>document.querySelector('.sortable th').click()</script></body>"
    )
    scene_page = sorted((page.parent / "scenes").iterdir())[0]
    (tmp_path / "clicked.html").write_text(clicked)
    dom = look(tmp_path / "clicked.html", tmp_path / "index.png")
    body = dom[dom.index('<table class="sortable">') :]
    names = re.findall(r"</i>([\w-]+)</td>", body[: body.index("</table>")])
    assert names == ["adam", "adam-tuned", "sgd"]  # by name; before, the best came first
    shown = re.findall(r'data-budget="([^"]*)"( hidden="")?', dom)
    assert [budget for budget, hidden in shown if not hidden] == ["steps 12.0"]
    assert len(shown) == 3
    overview, multiples = dom.split('<div class="multiples">')
    assert len(re.findall(r'<a href="scenes/[^"]*">\s*<svg', multiples)) == len(SCENES)
    assert overview.count('id="FillBetweenPolyCollection') == 3 + 2  # bands of PSNR, and of its difference to adam
    (scene_page.parent / "moved.html").write_text(scene_page.read_text().replace("</body>", f"{MOVE_SLIDER}</body>"))
    dom = look(scene_page.parent / "moved.html", tmp_path / "scene.png")
    assert len(re.findall(r'<img alt="(?:left|right)" src="data:image/jpeg', dom)) == 2
    assert 'style="--cut: 20%;"' in dom
    widths = re.findall(r'data-widths="(\d+) (\d+)"', dom)
    assert [int(width) for width in widths[0]] == [32, 32]  # both pictures are whole
    for picture in ("index.png", "scene.png"):
        pixels = np.asarray(Image.open(tmp_path / picture).convert("RGB"))
        assert pixels.shape == (900, 1200, 3)
        assert pixels.std() > 10
