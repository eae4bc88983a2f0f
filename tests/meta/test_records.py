"""The files that show a training: TensorBoard's points are the history, once each; the report is self-contained."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learn2splat.meta.listener import Listeners, TrainingListener
from learn2splat.meta.progress import Progress
from learn2splat.meta.report import ReportWriter, write_training_report
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.tensorboard import EventWriter
from tests.meta.test_progress import training
from tests.meta.test_training import trainer


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_points_are(found: dict[str, list[tuple[int, float]]], progress: Progress) -> None:
    names = {name for row in progress.history for name in row} - {"meta_step"}
    assert set(found) == names
    for name in names:
        steps, values = progress.column(name)
        assert [step for step, _ in found[name]] == steps, name
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), name


def test_points_are_the_history_also_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    first = trainer(tmp_path)
    events = EventWriter(folder, first.progress)
    steps = iter(range(4))
    first.run(stop=lambda: next(steps, None) is None, listener=events)
    for step in (5, 6):  # work that a kill loses, on disk already
        events.on_row({"meta_step": step, "loss": 99.0, "score": 99.0})
    events.writer.flush()
    second = trainer(tmp_path)
    assert second.progress.meta_step == 4
    events = EventWriter(folder, second.progress)
    second.run(listener=events)
    events.on_end(tmp_path)
    assert second.progress.meta_step == 6
    assert_points_are(points(folder), second.progress)


def test_points_of_a_training_without_a_checkpoint_are_purged(tmp_path: Path) -> None:
    lost = EventWriter(tmp_path, Progress())
    lost.on_row({"meta_step": 0, "score": 99.0})
    lost.on_abort()
    again = EventWriter(tmp_path, Progress())
    again.on_row({"meta_step": 0, "score": 20.0})
    again.on_end(tmp_path)
    assert points(tmp_path) == {"score": [(0, 20.0)]}


def write(path: Path, progress: Progress, meta_steps: int = 100) -> str:
    settings = TrainSettings(meta_steps=meta_steps, samples=2)
    command = ["l2s", "meta-train", "data.captures=[captures/my room]", "<b>"]
    write_training_report(path, progress, settings, command, "train: {seed: 7}")
    return path.read_text()


def test_the_report_has_the_numbers_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", training(60))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    for text in ("20.000 dB", "20.300 dB", "after 30 meta-steps", "60 of 100", "15</b>", "12.5 %", "0:02:21"):
        assert text in page, text
    cells = re.findall(r"<tr.*?><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert [cell[0] for cell in cells] == ["0", "10", "20", "30", "40", "50", "60"]
    assert cells[3] == ("30", "20.300", "+0.300")
    assert page.count("<svg") == 1
    assert "&#39;data.captures=[captures/my room]&#39; &#39;&lt;b&gt;&#39;" in page
    assert "train: {seed: 7}" in page
    addresses = re.findall(r"https?://[^\"<> ]+", page)
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # names of XML, never fetched
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", page)


def test_a_report_can_be_written_at_any_time(tmp_path: Path) -> None:
    assert "untrained" in write(tmp_path / "begun.html", training(0))
    assert "not finished" not in write(tmp_path / "finished.html", training(100))
    broken = training(20)
    for row in broken.history:
        row |= {name: math.nan for name in ("loss", "score") if name in row}
    assert "not finished" in write(tmp_path / "broken.html", broken)
    assert len(write(tmp_path / "long.html", training(20000, every=500), 20000)) < 200_000
    assert "not finished" in write(tmp_path / "empty.html", Progress())


def test_the_report_follows_every_checkpoint(tmp_path: Path) -> None:
    class Heard(TrainingListener):
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def on_saved(self) -> None:
            self.sizes.append(len((tmp_path / "report.html").read_text()))

    heard = Heard()
    writer = ReportWriter(tmp_path / "report.html", ["l2s"], "seed: 1")
    one = trainer(tmp_path)
    one.run(listener=Listeners(writer, heard))
    assert heard.sizes
    assert f"{one.progress.best_score:.3f} dB" in (tmp_path / "report.html").read_text()
