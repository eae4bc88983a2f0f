"""The live viewer: what is drawn by closed form, a run that does not notice it, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from learn2splat.api import open_session
from learn2splat.errors import UserError
from learn2splat.live import Gate, Listeners, LiveView
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import StepContext
from learn2splat.optim.scaled import ScaledUpdates
from learn2splat.rollout_state import StepRecord
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.session import Listener, Session
from learn2splat.viewer import MAX_STD, SHOWN_RADIUS, Placement, parse_address, splats
from tests.conftest import random_scene
from tests.test_cli import l2s

SCENE = "procedural:seed=3,views=9,width=64"
NEEDS_VISER = pytest.mark.skipif(find_spec("viser") is None, reason="viser is not installed (the extra 'viewer')")


def session(folder: Path | None = None, steps: int = 30, **settings: object) -> Session:
    given = {"scene": SCENE, "steps": steps, "max_gaussians": 300, "sh_degree": 1, "batch_views": 2, **settings}
    return open_session(given | {"out": folder})


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_splats_are_ellipsoids_of_the_right_size_at_the_right_place() -> None:
    half = 0.5**0.5  # a quarter turn about z: the longest axis, x, points along y
    scene = GaussianScene(
        means=torch.tensor([[1.0, 2.0, 3.0]]),
        log_scales=torch.tensor([[0.3, 0.2, 0.1]]).log(),
        quats=torch.tensor([[2 * half, 0.0, 0.0, 2 * half]]),
        logit_opacities=torch.tensor([0.0]),
        sh=torch.zeros(1, 4, 3),
    )
    drawn = splats(scene, Placement(np.array([1.0, 0.0, 0.0]), 10.0))
    np.testing.assert_allclose(drawn["centers"], [[0.0, 20.0, 30.0]], atol=1e-6)
    np.testing.assert_allclose(drawn["covariances"], [np.diag([4.0, 9.0, 1.0])], atol=1e-5)
    np.testing.assert_allclose(drawn["rgbs"], [[0.5, 0.5, 0.5]])
    np.testing.assert_allclose(drawn["opacities"], [[0.5]])


def test_what_is_drawn_fits_into_float16() -> None:
    scene = random_scene(50).map(lambda tensor: 20 * tensor)
    drawn = splats(scene, Placement.around(scene.means))
    assert np.isfinite(drawn["covariances"].astype(np.float16)).all()
    assert np.sqrt(np.linalg.eigvalsh(drawn["covariances"]).max()) < 1.001 * MAX_STD


def test_nine_of_ten_points_lie_within_the_shown_radius() -> None:
    points = torch.randn(1000, 3, dtype=torch.float64) * 100 + 7
    shown = Placement.around(points).shown(points.numpy())
    assert np.mean(np.linalg.norm(shown, axis=1) <= SHOWN_RADIUS) == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("text", ["127.0.0.1", "host:x", "host:70000", ""])
def test_an_address_is_host_and_port(text: str) -> None:
    assert parse_address("8123") == parse_address("127.0.0.1:8123") == ("127.0.0.1", 8123)
    with pytest.raises(UserError, match="HOST:PORT"):
        parse_address(text)


def test_updates_are_scaled_by_parameter_and_not_at_one() -> None:
    scene, grads = random_scene(20), random_scene(20, seed=1)
    context = StepContext(0, None, 1, 1, 1.0, torch.ones(20, dtype=torch.bool), 0.1)
    plain, scaled = Adam(), ScaledUpdates(Adam())
    expected, _ = plain.update(grads, plain.init(scene), scene, context)
    same, state = scaled.update(grads, scaled.init(scene), scene, context)
    assert all(torch.equal(a, b) for a, b in zip(expected.tensors(), same.tensors(), strict=True))
    scaled.factors["means"] = 0.25
    update, after = scaled.update(grads, scaled.init(scene), scene, context)
    assert torch.equal(update.means, 0.25 * expected.means)
    assert torch.equal(update.sh, expected.sh)
    assert all(torch.equal(after.rows[name], state.rows[name]) for name in state.rows)


def test_the_gate_lets_through_what_was_granted() -> None:
    gate = Gate()
    assert [gate.passes() for _ in range(3)] == [True] * 3
    gate.step()
    assert [gate.passes() for _ in range(2)] == [True, False]
    gate.resume()
    assert gate.passes()
    gate.pause()
    assert not gate.passes()
    gate.step()
    gate.step()
    assert [gate.passes() for _ in range(3)] == [True, True, False]


class Watched(Listener):
    """Writes down the steps it hears of."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record.step)


@NEEDS_VISER
def test_a_run_with_viewer_writes_the_same_bytes(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listener = Watched()
    live = LiveView(free_address(), lambda: False, lambda text: None)
    session(here / "plain").run(Listener(), lambda: False)
    capfd.readouterr()
    shown: list[str] = []

    class Refreshed(Listener):
        def on_step(self, record: StepRecord) -> None:
            live._refresh()
            assert live.page is not None
            shown.append(live.page.text.content)

    session(here / "viewed").run(Listeners([listener, live, Refreshed()]), lambda: False)
    assert listener.steps == list(range(1, 31))
    assert "**step 30** (100%)" in shown[-1]
    assert capfd.readouterr().out == "", "standard output belongs to the run"
    assert (here / "plain/point_cloud.ply").read_bytes() == (here / "viewed/point_cloud.ply").read_bytes()
    summary = json.loads((here / "viewed/summary.json").read_text())
    assert summary["warnings"] == json.loads((here / "plain/summary.json").read_text())["warnings"]


def control(live: LiveView, label: str) -> Any:
    """A button or slider of the page; setting its ``value`` calls what is registered, as a click does."""
    assert live.page is not None
    found = [handle for handle in live.page.server.gui._gui_input_handle_from_uuid.values() if handle.label == label]
    assert len(found) == 1
    return found[0]


@NEEDS_VISER
def test_a_held_run_steps_when_told_and_can_be_stopped(here: Path) -> None:
    stop = threading.Event()
    live, listener = LiveView(free_address(), stop.is_set, lambda text: None), Watched()
    run = session(here / "run", steps=1000)
    live.gate.pause()
    thread = threading.Thread(target=lambda: run.run(Listeners([listener, live]), stop.is_set))
    thread.start()
    try:
        for count in (1, 2, 3):
            _until(lambda count=count: len(listener.steps) == count)
            time.sleep(0.1)
            assert len(listener.steps) == count
            if count < 3:
                control(live, "sh").value = 0.5 * count
                control(live, "step").value = True
        control(live, "resume").value = True
        _until(lambda: len(listener.steps) > 5)
        control(live, "pause").value = True
        _until(lambda: is_held(live, listener))
        held = len(listener.steps)
        time.sleep(0.1)
        assert len(listener.steps) == held
    finally:
        stop.set()
        thread.join(timeout=60)
    assert not thread.is_alive()
    summary = json.loads((here / "run/summary.json").read_text())
    assert summary["outcome"] == "interrupted"
    assert run.rollout.optimizer.factors["sh"] == 1.0
    assert summary["warnings"][-2:] == [
        "from step 1 on, updates of sh x 0.5",
        "from step 2 on, updates of sh x 1",
    ], "a run that a person changed says so"


@NEEDS_VISER
def test_the_page_is_served_on_this_machine_alone(here: Path) -> None:
    seen: list[str] = []
    live = LiveView(free_address(), lambda: False, seen.append)
    live.on_start(session())
    try:
        assert seen[0].startswith("http://127.0.0.1:")
        with urllib.request.urlopen(seen[0], timeout=5) as answer:
            assert b"<html" in answer.read(4096)
        assert live.page is not None
        assert not live.page.is_watched
    finally:
        live.on_abort()


def test_without_viser_it_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    assert l2s("optimize", "--scene", SCENE, "--steps", "1", "--quiet", "--view") == 5
    message = capsys.readouterr().err
    assert "learn2splat[viewer]" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.ply"], "no such file"),
        (["--ply", "nothing.ply"], "no such file"),
        (["empty"], "give the folder of a run"),
        (["unfinished"], "holds no point_cloud.ply"),
    ],
)
def test_what_cannot_be_viewed_is_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "empty").mkdir()
    (here / "unfinished").mkdir()
    (here / "unfinished" / "config.yaml").write_text("scene: nowhere\n")
    assert l2s("view", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_capture_that_is_named_must_be_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session(here / "run", steps=2, eval_at=[0]).run(Listener(), lambda: False)
    assert l2s("view", "run", "--scene", "nowhere", "--at", free_address()) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine: the page was not looked at in a browser")
    return found


@pytest.fixture
def viewed_run(here: Path) -> Iterator[str]:
    """The address at which a finished run is shown by ``l2s view`` in a process of its own."""
    session(here / "run", steps=60, eval_at=[0, 10, 30]).run(Listener(), lambda: False)
    address = free_address()
    command = [sys.executable, "-m", "learn2splat.cli", "view", "run", "--at", address]
    process = subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert address in process.stderr.readline()
    yield f"http://{address}"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0


def is_held(live: LiveView, listener: Watched) -> bool:
    """Whether the page says that the run is held after the step that was heard of last."""
    assert live.page is not None
    return re.search(rf"\*\*step {len(listener.steps):,}\*\* \(\d+%\) \(paused\)", live.page.text.content) is not None


def looked_at(
    url: str, chromium: str, folder: Path, enough: Callable[[np.ndarray, str], bool]
) -> tuple[np.ndarray, str]:
    """Pixels int [H, W, 3] and elements of a page once ``enough`` is in them: on a busy machine that takes long."""
    picture = folder / "page.png"
    flags = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'browser'}", "--window-size=1000,700", f"--screenshot={picture}"]
    for budget_ms in (20_000, 60_000, 180_000):
        command = [chromium, *flags, f"--virtual-time-budget={budget_ms}", url]
        done = subprocess.run(command, capture_output=True, timeout=180, check=False)
        assert picture.is_file(), done.stderr.decode()[-2000:]
        pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        elements = done.stdout.decode()
        if enough(pixels, elements):
            break
    return pixels, elements


def has_splats(pixels: np.ndarray) -> bool:
    """Splats and photos, not an empty page, and the blue frusta of the training views."""
    blue = (pixels[..., 2] - pixels[..., 0] > 60).mean()
    return bool(blue > 1e-3 and len(np.unique(pixels[:, :600].reshape(-1, 3), axis=0)) > 2000)


def says_paused(pixels: np.ndarray, elements: str) -> bool:
    return has_splats(pixels) and "(paused)" in elements


@NEEDS_VISER
@pytest.mark.slow
def test_the_page_shows_splats_and_cameras_in_a_browser(viewed_run: str, chromium: str, tmp_path: Path) -> None:
    pixels, _ = looked_at(viewed_run, chromium, tmp_path, lambda pixels, _: has_splats(pixels))
    assert has_splats(pixels)


@NEEDS_VISER
@pytest.mark.slow
def test_a_paused_run_says_so_in_a_browser(here: Path, chromium: str, tmp_path: Path) -> None:
    stop = threading.Event()
    live, listener = LiveView(free_address(), stop.is_set, lambda text: None), Watched()
    run = session(here / "run", steps=100_000, eval_at=[0])
    thread = threading.Thread(target=lambda: run.run(Listeners([listener, live]), stop.is_set))
    thread.start()
    try:
        _until(lambda: len(listener.steps) > 10)
        control(live, "pause").value = True
        _until(lambda: is_held(live, listener))
        assert live.page is not None
        pixels, elements = looked_at(live.page.url, chromium, tmp_path, says_paused)
    finally:
        stop.set()
        thread.join(timeout=60)
    assert says_paused(pixels, elements)
    assert f"step {len(listener.steps)}" in elements
    assert all(f">{label}<" in elements for label in ("pause", "step", "resume"))


def _until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
