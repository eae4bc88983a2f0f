"""30,000 steps with births and deaths: learned and conventional optimizers in `l2s optimize`, side by side.

    python scripts/long_runs.py --out outputs/long --seeds fox=3 --csv docs/long_runs.csv

Three captures, 192 px, one view per step, at most 30,000 Gaussians. Runs that are interrupted go on where they were;
those that are through are not repeated. The table has held-out PSNR / SSIM / FLIP at fixed steps and after fixed
seconds of optimisation: those compare only when nothing else runs on the machine. The CSV has every evaluation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DENSIFY = {"fox": "default", "monstree": "mcmc", "sceaux": "default"}
STEPS = (100, 300, 1000, 3000, 10000, 30000)
SECONDS = (10, 30, 100, 300)
LATE = 1.05
"""The evaluation after so many seconds is the first one from there on, up to this many times as late."""
EVALUATED = tuple(round(10 ** (power / 8)) for power in range(8, 36)) + STEPS
METRICS = ("psnr", "ssim", "flip")
COLUMNS = ("scene", "densify", "optimizer", "seed", "step", "seconds", *METRICS, "gaussians", "ply_mb")


@dataclass(frozen=True)
class Run:
    """One optimizer on one capture, in a folder below ``out``."""

    out: Path
    scene: str
    optimizer: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.out / f"{self.scene}-{self.optimizer}-{self.seed}"

    @property
    def is_through(self) -> bool:
        summary = self.folder / "summary.json"
        return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["outcome"] != "interrupted"

    def go_on(self, captures: Path, steps: int) -> None:
        """Take it up, or begin it."""
        if self.is_through:
            return
        evaluated = sorted({step for step in EVALUATED if step <= steps})
        command = [sys.executable, "-m", "learn2splat.cli", "optimize", "--out", str(self.folder)]
        command += ["--scene", str(captures / self.scene), "--steps", str(steps), "--seed", str(self.seed)]
        command += ["--densify", DENSIFY[self.scene], "--optimizer", self.optimizer]
        command += ["--max-size", "192", "--batch-views", "1", "--max-gaussians", "30000"]
        command += [f"eval_at=[{','.join(map(str, evaluated))}]", f"eval_seconds=[{','.join(map(str, SECONDS))}]"]
        if (self.folder / "checkpoint").is_dir():
            command.append("--resume")
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / f"{self.folder.name}.log", "a", encoding="utf-8") as log:
            subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)

    def rows(self) -> list[dict[str, Any]]:
        """One per evaluation so far, in the order of the steps, with `COLUMNS`; the size of the PLY in the last one."""
        file, ply = self.folder / "metrics.jsonl", self.folder / "point_cloud.ply"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        named = {"scene": self.scene, "densify": DENSIFY[self.scene], "optimizer": self.optimizer, "seed": self.seed}
        rows = [{name: (named | row).get(name) for name in COLUMNS} for row in map(json.loads, lines)]
        if rows and self.is_through:
            rows[-1]["ply_mb"] = round(ply.stat().st_size / 1e6, 3)
        return rows


def after_seconds(rows: Sequence[Mapping[str, Any]], seconds: float) -> Mapping[str, Any] | None:
    """The evaluation after so many seconds of optimisation, if there is one that is not much later."""
    return next((row for row in rows if seconds <= row["seconds"] <= LATE * seconds), None)


def table(runs: Sequence[Run]) -> str:
    """Markdown of all runs that there are, finished or not."""
    heads = ["run", "optimizer", *(f"{step:,}" for step in STEPS), *(f"{second} s" for second in SECONDS)]
    heads += ["Gaussians", "MB"]
    lines = [heads, ["---"] * len(heads)]
    for run in runs:
        rows = run.rows()
        if not rows:
            continue
        by_step = {row["step"]: row for row in rows}
        marks = [*map(by_step.get, STEPS), *(after_seconds(rows, seconds) for seconds in SECONDS)]
        cells = ["" if row is None else f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['flip']:.3f}" for row in marks]
        size = rows[-1]["ply_mb"]
        cells += [f"{rows[-1]['gaussians']:,}", "" if size is None else f"{size:.1f}"]
        lines.append([f"{run.scene}, {DENSIFY[run.scene]}, seed {run.seed}", run.optimizer, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    """Every evaluation of every run."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for run in runs:
            for row in run.rows():
                writer.writerow({name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()})


def seeds_by_scene(text: str) -> dict[str, int]:
    """``fox=3,sceaux=2`` as numbers of seeds; 1 of each scene that is not named."""
    given = dict(part.split("=") for part in text.split(",") if part)
    if unknown := set(given) - set(DENSIFY):
        raise ValueError(f"no scene {', '.join(sorted(unknown))}; there are {', '.join(DENSIFY)}")
    return {scene: int(given.get(scene, 1)) for scene in DENSIFY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--optimizers", default="adam,adam-tuned,l2s", help="names, comma-separated")
    parser.add_argument("--seeds", type=seeds_by_scene, default="fox=3", help="SCENE=N,...; one of each other scene")
    parser.add_argument("--steps", type=int, default=STEPS[-1])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--csv", type=Path, help="file for all evaluations, written anew")
    parser.add_argument("--only-report", action="store_true", help="table and CSV of the runs there are")
    arguments = parser.parse_args()
    ordered = [(seed, scene) for seed in range(max(arguments.seeds.values())) for scene in DENSIFY]
    runs = [
        Run(arguments.out, scene, optimizer, seed)
        for seed, scene in ordered
        if seed < arguments.seeds[scene]
        for optimizer in arguments.optimizers.split(",")
    ]
    if not arguments.only_report:
        with ThreadPoolExecutor(arguments.workers) as pool:
            waiting = [pool.submit(run.go_on, arguments.captures, arguments.steps) for run in runs]
            for one in waiting:
                one.result()
    if arguments.csv:
        write_csv(arguments.csv, runs)
    print(table(runs))


if __name__ == "__main__":
    main()
