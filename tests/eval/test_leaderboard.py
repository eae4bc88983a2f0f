"""Tables of a leaderboard against closed forms."""

from __future__ import annotations

import csv
import io
import json

import pytest

from learn2splat.eval.leaderboard import as_csv, as_json, as_markdown, tables
from learn2splat.eval.store import Row
from learn2splat.eval.task import Task


def row(
    scene: str, method: str, psnr: float, kind: str = "steps", budget: float = 10, seed: int = 0, outcome: str = "ok"
) -> Row:
    step, seconds = (int(budget), 9.0) if kind == "steps" else (100, budget * (2.0 if method == "slow" else 1.0))
    key, beside = Task(scene, seed=seed).key, {"reference": "adam", "reference_ms": 10 * budget}
    return Row(key, scene, method, seed, kind, budget, step, psnr, 0.5, seconds, 0, 0, 10, outcome, **beside)


ROWS = [
    *(row(scene, "adam", psnr) for scene, psnr in (("x", 20.0), ("y", 10.0), ("z", 30.0))),
    *(row("x", "slow", psnr, seed=seed) for seed, psnr in enumerate((21.0, 23.0))),
    row("y", "slow", 9.0, outcome="diverged"),
    *(row(scene, "slow", 25.0, budget=5) for scene in ("x", "y")),
    *(row(scene, method, 12.0, "seconds", 1.0) for scene in ("x", "y") for method in ("adam", "slow")),
]


def test_an_entry_has_its_closed_form() -> None:
    (table,) = tables(ROWS).values()
    entry = table.entry("dense", "steps", 10, "slow", "adam")
    assert entry is not None
    assert (entry.psnr.count, entry.psnr.mean, entry.psnr.median, entry.psnr.worst) == (2, 15.5, 15.5, 9.0)
    assert entry.worst_scene == "y"
    assert entry.over_reference is not None
    assert (entry.over_reference.mean, entry.over_reference.worst, entry.wins) == (0.5, -1.0, 0.5)
    assert entry.failures == {"diverged": 1}
    assert entry.oracle_psnr == ((25.0 + 23.0) / 2 + 25.0) / 2  # the best budget of each run, then seeds, then scenes
    assert entry.time_ratio is None  # seconds of processes side by side are no times
    reference = table.entry("dense", "steps", 10, "adam", "adam")
    assert reference is not None
    assert (reference.over_reference, reference.wins) == (None, None)
    assert table.methods == ["adam", "slow"]


def test_times_are_ratios_by_scene() -> None:
    (table,) = tables(ROWS).values()
    entry = table.entry("dense", "seconds", 1.0, "slow", "adam")
    assert entry is not None
    assert entry.ms_per_step == pytest.approx(20.0)
    assert entry.time_ratio == pytest.approx(2.0)
    assert table.time_ratio(1.0, "adam", "adam") == 1.0
    assert table.time_ratio(1.0, "slow", "sgd") is None  # which was not there
    assert table.entry("dense", "seconds", 1.0, "absent", "adam") is None


def test_scenes_that_were_trained_on_are_left_out_once() -> None:
    found = tables(ROWS, seen=["x", "nowhere"])
    assert {setting: table.scenes for setting, table in found.items()} == {
        "dense": ["x", "y", "z"],
        "dense, unseen scenes": ["y", "z"],
    }
    assert list(tables(ROWS, seen=["x", "y", "z"])) == ["dense"]


def test_settings_are_apart() -> None:
    other = Task("x").under("sparse:3+random")
    assert (other.views, other.init, other.setting) == ("sparse:3", "random", "sparse:3+random")
    assert Task.from_key(other.key) == other
    assert list(tables([*ROWS, row("x", "adam", 1.0)])) == ["dense"]


def test_json_csv_and_markdown_say_the_same() -> None:
    found = tables(ROWS)
    entries = [entry for setting, table in found.items() for entry in table.entries(setting, "adam")]
    content = json.loads(json.dumps(as_json(entries, ROWS, {"notes": ["a note"]}), allow_nan=False))
    assert content["notes"] == ["a note"]
    assert len(content["runs"]) == len(ROWS)
    assert all(("seconds" in run) == (run["kind"] == "seconds") for run in content["runs"])
    lines = list(csv.DictReader(io.StringIO(as_csv(entries))))
    assert len(lines) == len(content["entries"]) == len(entries)
    for line, entry in zip(lines, content["entries"], strict=True):
        assert line["method"] == entry["method"]
        assert float(line["psnr.mean"]) == entry["psnr"]["mean"]
        assert int(line["failures"]) == sum(entry["failures"].values())
    text = as_markdown(found, entries, "adam", ["a note"])
    assert "- a note" in text
    assert "| slow | 15.50 [9.00, 22.00] | 15.50 | 9.00 (y) | 0.500 | 50 % | 1 diverged |" in text
    assert "| slow | 12.00 [12.00, 12.00] | 12.00 | 12.00 (x) | 0.500 | 0 % | 0 | 100 | 20.00 | 2.00 |" in text
