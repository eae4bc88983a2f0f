"""`scripts/long_runs.py`: the table and the CSV say what the runs measured, and when."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from scripts.long_runs import COLUMNS, Run, after_seconds, seeds_by_scene, table, write_csv


def made(out: Path, seed: int, finished: bool) -> Run:
    """A run with evaluations at 100 and 300 steps, and after 10 and 33 seconds."""
    run = Run(out, "fox", "adam", seed)
    run.folder.mkdir()
    rows = [(100, 1.0, 20.0, 100), (870, 10.02, 25.0, 200), (300, 3.0, 22.0, 150), (2000, 33.0, 30.0, 400)]
    lines = [
        {"step": step, "seconds": seconds, "psnr": psnr, "ssim": 0.5, "flip": 0.25, "gaussians": count, "loss": 0.1}
        for step, seconds, psnr, count in sorted(rows)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (run.folder / "summary.json").write_text('{"outcome": "ok"}')
        (run.folder / "point_cloud.ply").write_bytes(bytes(1_500_000))
    return run


def test_every_mark_has_its_metrics_and_seconds_are_not_interpolated(tmp_path: Path) -> None:
    runs = [made(tmp_path, 0, True), made(tmp_path, 1, False), Run(tmp_path, "sceaux", "l2s", 0)]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(runs).splitlines()]
    assert len(lines) == 4
    found = dict(zip(lines[0], lines[2], strict=True))
    assert found["run"] == "fox, default, seed 0"
    assert found["100"] == "20.00 / 0.500 / 0.250"
    assert found["300"] == "22.00 / 0.500 / 0.250"
    assert found["10 s"] == "25.00 / 0.500 / 0.250"
    assert found["1,000"] == found["30 s"] == found["300 s"] == ""  # 33 s are not 30 s
    assert (found["Gaussians"], found["MB"]) == ("400", "1.5")
    assert lines[3][-2:] == ["400", ""]
    rows = runs[0].rows()
    assert after_seconds(rows, 9) is None
    assert after_seconds(rows, 32) is rows[-1]


def test_the_csv_has_every_evaluation_of_every_run(tmp_path: Path) -> None:
    runs = [made(tmp_path, 0, True), made(tmp_path, 1, False)]
    write_csv(tmp_path / "rows.csv", runs)
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["seed"], row["step"], row["gaussians"]) for row in rows] == [
        (seed, step, count)
        for seed in "01"
        for step, count in (("100", "100"), ("300", "150"), ("870", "200"), ("2000", "400"))
    ]
    assert [row["ply_mb"] for row in rows] == ["", "", "", "1.5", "", "", "", ""]


def test_seeds_are_given_by_scene() -> None:
    assert seeds_by_scene("fox=3") == {"fox": 3, "monstree": 1, "sceaux": 1}
    with pytest.raises(ValueError, match="fux"):
        seeds_by_scene("fux=3")
