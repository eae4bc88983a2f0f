"""A meta-training in a terminal and without one: the panel at every width, plain lines, what Ctrl-C leaves behind."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from learn2splat.meta.progress import Progress
from learn2splat.meta.settings import TrainSettings
from learn2splat.training_console import TrainingLines, TrainingPanel, panel, training_console
from tests.meta.test_progress import training
from tests.test_cli import l2s
from tests.test_training import SMALL

SETTINGS = TrainSettings(meta_steps=105, samples=4, validate_every=10)
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def broken() -> Progress:
    progress = training(20)
    for row in progress.history:
        row |= {name: math.nan for name in ("loss", "score", "gradient_norm") if name in row}
    return progress


def drawn(progress: Progress, width: int, settings: TrainSettings = SETTINGS) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), color_system=None)
    console.print(panel(progress, settings, "training"))
    return console.export_text()


@pytest.mark.parametrize("width", [8, 24, 40, 60, 80, 120])
@pytest.mark.parametrize(
    "progress",
    [Progress(), training(0), training(1), training(9), training(45), training(105), broken()],
    ids=["empty", "untrained", "first", "no validation yet", "midway", "finished", "not finite"],
)
def test_the_panel_fits_every_width(progress: Progress, width: int) -> None:
    lines = drawn(progress, width).splitlines()
    assert {len(line) for line in lines} == {width}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_panel_has_the_numbers(width: int) -> None:
    text = " ".join(drawn(training(45), width).split())
    facts = ["45/105", "0:02:18 left", "gradient norm 0.250", "s per meta-step 2.00", "samples/s 2.00"]
    facts += [
        "lives in buffer 20",
        "deaths 11 (11 lately)",
        "untrained 20.000 dB",
        "best validation 20.300 dB after 30",
    ]
    facts += ["40 19.400 -0.600", "training"]
    for fact in facts:
        assert fact in text, fact
    assert "nan" not in text
    assert "20.000 dB after 0" in drawn(training(9), width)
    assert "105/105" in drawn(training(105), width)


def test_the_panel_needs_no_unicode() -> None:
    stream = io.BytesIO()
    console = Console(file=io.TextIOWrapper(stream, encoding="ascii", write_through=True), width=60)
    console.print(panel(training(45), SETTINGS, "training"))
    assert b"best validation" in stream.getvalue()


def test_lines_are_plain_and_few(tmp_path: Path) -> None:
    file = io.StringIO()
    lines = TrainingLines(Console(file=file))
    lines.on_note("pip install 'learn2splat[tensorboard]'")
    for row in training(25).history:
        lines.on_row(row)
    lines.on_end(tmp_path / ("long" * 30))
    note, *rows, report = file.getvalue().splitlines()
    assert note == "pip install 'learn2splat[tensorboard]'"
    assert re.findall(r"\d+\.\d+ dB", "".join(rows)) == ["20.000 dB", "20.100 dB", "20.200 dB"]
    assert [re.findall(r"step +(\d+) +loss", row) for row in rows if "loss" in row] == [["10"], ["20"]]
    assert report == f"report {tmp_path / ('long' * 30) / 'report.html'}"


@pytest.mark.usefixtures("capsys")
def test_without_a_terminal_there_are_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(training_console(lambda: False), TrainingLines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(training_console(lambda: False), TrainingLines)


def test_an_exception_restores_the_terminal() -> None:
    file = io.StringIO()
    shown = TrainingPanel(Console(file=file, force_terminal=True, width=60), stopping=lambda: True)
    shown.on_abort()
    assert SHOW not in file.getvalue()
    shown.on_start(training(9), SETTINGS)
    shown.on_row({})
    shown.live.refresh()
    assert "training, then stopping" in file.getvalue()
    assert file.getvalue().count(HIDE) == 1
    shown.on_abort()
    assert file.getvalue().count(SHOW) == 1
    assert "aborted" in file.getvalue()


def in_a_terminal(command: list[str], cwd: Path, until: Path) -> tuple[int, str]:
    """Run ``command`` in a pseudo-terminal and interrupt it once ``until`` exists; its exit code and output."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "60", "LINES": "24"}
    process = subprocess.Popen(command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.set_blocking(ours, False)
    output, deadline, interrupted = b"", time.monotonic() + 120, False
    while process.poll() is None:
        assert time.monotonic() < deadline, output.decode()
        if until.exists() and not interrupted:
            process.send_signal(signal.SIGINT)
            interrupted = True
        time.sleep(0.02)
        output += read(ours)
    output += read(ours)
    os.close(ours)
    return process.returncode, output.decode()


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 2**20)
    except OSError:  # nothing there, or the other side is closed
        return b""


def test_ctrl_c_in_a_terminal_leaves_a_checkpoint_and_a_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["meta-train", "--out", "run", *SMALL]
    command = [sys.executable, "-m", "learn2splat.cli", *arguments, "train.meta_steps=5000", "train.validate_every=5"]
    code, output = in_a_terminal([*command, "train.checkpoint_seconds=0"], tmp_path, tmp_path / "run" / "report.html")
    assert code == 130, output
    assert output.count(HIDE) == output.count(SHOW) == 1
    assert output.index(HIDE) < output.index(SHOW)
    assert "best validation" in output
    assert "stopped" in output
    assert "the same command goes on from run" in output[output.index(SHOW) :]
    assert "Traceback" not in output
    assert (tmp_path / "run" / "checkpoint-0" / "manifest.json").is_file()
    monkeypatch.chdir(tmp_path)
    assert l2s(*arguments, "train.meta_steps=1") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.splitlines()[-2:] == ["report run/report.html", "run/optimizer"]
