"""Memory: photos and pictures never all at once, a clear refusal, and the peak in the summary."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learn2splat.api import optimize
from learn2splat.data.photos import LazyPhotos
from learn2splat.eval.metrics import evaluate
from learn2splat.memory import MemoryLimit, MemoryLimitError, give_back, machine_memory_mb, peak_memory_mb, resident_mb
from learn2splat.run_folder import RunFolder
from learn2splat.session import Listener
from tests.test_cli import l2s

SCENE = "procedural:seed=3,views=9,width=48"
FAST = ["--scene", SCENE, "--max-gaussians", "300", "--sh-degree", "1", "--batch-views", "2", "--quiet"]


def test_what_is_resident_grows_with_what_is_held_and_the_peak_stays() -> None:
    give_back()  # else the memory may be some that is kept for the next step
    before = resident_mb()
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert 60 < resident_mb() - before < 80
    assert peak_memory_mb() >= resident_mb() - 1
    del held
    give_back()
    assert resident_mb() < before + 10
    assert resident_mb() < machine_memory_mb()


def test_a_limit_raises_when_it_is_passed_and_else_passes_the_question_on() -> None:
    answers = iter([False, True])
    limit = MemoryLimit(resident_mb() + 100, lambda: next(answers))
    assert not limit()
    assert limit()
    limit.require(10)
    with pytest.raises(MemoryLimitError, match="--max-memory"):
        limit.require(200)


def test_what_is_kept_for_the_next_step_is_no_reason_to_stop() -> None:
    limit = MemoryLimit(resident_mb() + 100, lambda: False)
    held = torch.ones(300 << 20, dtype=torch.uint8)
    with pytest.raises(MemoryLimitError):
        limit.require(0)
    del held
    limit.require(0)


def test_too_little_memory_is_refused_before_anything_is_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert l2s("optimize", *FAST, "--steps", "3", "--out", "run", "--max-memory", "50") == 4
    message = capsys.readouterr().err
    assert "50 MiB allowed: lower --max-size" in message
    assert "Traceback" not in message
    assert not (here / "run").exists()
    assert l2s("optimize", *FAST, "--max-memory", "0") == 2


def test_a_run_that_grows_too_large_ends_with_its_best_scene(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learn2splat.memory.resident_mb", lambda: 10.0)

    class Grows(Listener):
        def on_step(self, record: object) -> None:
            monkeypatch.setattr("learn2splat.memory.resident_mb", lambda: 1e6)

    result = optimize(SCENE, steps=50, max_gaussians=100, out="run", max_memory=1000, listener=Grows())
    assert result.outcome.kind.value == "out_of_memory"
    assert "1,000 MiB allowed" in result.outcome.message
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert summary["steps"] < 50
    assert summary["max_memory_mb"] == 1000
    assert summary["peak_memory_mb"] >= summary["last"]["peak_memory_mb"] > 10
    assert (here / "run" / "point_cloud.ply").is_file()


def test_photos_count_before_they_are_decoded_and_a_run_does_not_depend_on_how_many_are_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert l2s("scene", "make", "--out", "scene", "--views", "5", "--width", "32") == 0
    run = ["optimize", "--scene", "scene", "--steps", "3", "--max-gaussians", "50", "--sh-degree", "0", "--quiet"]
    for share in (0.0, 0.25):
        monkeypatch.setattr("learn2splat.data.cache.MEMORY_SHARE", share)
        assert l2s(*run, "--out", f"run-{share}") == 0
    assert (here / "run-0.0/point_cloud.ply").read_bytes() == (here / "run-0.25/point_cloud.ply").read_bytes()
    monkeypatch.setattr(LazyPhotos, "bytes_to_come", 10 << 30)
    monkeypatch.setattr(LazyPhotos, "__getitem__", None)
    assert l2s(*run, "--out", "refused", "--max-memory", "9000") == 4
    assert "9,000 MiB allowed" in capsys.readouterr().err


def test_pictures_are_written_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []
    made: list[weakref.ref[Tensor]] = []

    def pictures() -> object:
        for _ in range(5):
            picture = torch.rand(8, 8, 3)
            made.append(weakref.ref(picture))
            alive.append(sum(ref() is not None for ref in made))
            yield picture

    RunFolder(tmp_path).write_pictures([f"{i}.jpg" for i in range(5)], pictures())  # type: ignore[arg-type]
    assert len(list((tmp_path / "renders").iterdir())) == 5
    assert max(alive) <= 2, "one is made while the last is let go"


def test_views_are_evaluated_one_at_a_time() -> None:
    untouched = evaluate(None, None, [0, 1])  # type: ignore[arg-type]
    assert iter(untouched) is untouched, "nothing is rendered until it is asked for"
