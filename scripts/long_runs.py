"""30,000 steps with births and deaths: learned and conventional optimizers in `l2s optimize`, side by side.

    python scripts/long_runs.py --out outputs/long --optimizers adam,adam-tuned,l2s

Three captures, 192 px, one view per step, at most 30,000 Gaussians. Runs that are interrupted go on where they were;
those that are through are not repeated. The table has held-out PSNR at fixed steps, and, interpolated between
evaluations, at fixed seconds of optimisation: equal only when nothing else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any

RUNS = (("fox", "default"), ("monstree", "mcmc"), ("sceaux", "default"))
STEPS = (100, 300, 1000, 3000, 10000, 30000)
SECONDS = (10, 30, 100, 300)
EVALUATED = tuple(round(10 ** (power / 8)) for power in range(8, 36)) + STEPS[-1:]


def folder(out: Path, scene: str, optimizer: str, seed: int) -> Path:
    """Where a run lies."""
    return out / f"{scene}-{optimizer}-{seed}"


def run(out: Path, captures: Path, scene: str, densify: str, optimizer: str, seed: int, steps: int) -> None:
    """Take up a run, or begin it."""
    at = folder(out, scene, optimizer, seed)
    summary = at / "summary.json"
    if summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["outcome"] != "interrupted":
        return
    command = [sys.executable, "-m", "learn2splat.cli", "optimize", "--scene", str(captures / scene), "--out", str(at)]
    command += ["--steps", str(steps), "--densify", densify, "--optimizer", optimizer, "--seed", str(seed)]
    command += ["--max-size", "192", "--batch-views", "1", "--max-gaussians", "30000"]
    evaluated = sorted({step for step in (*EVALUATED, *STEPS) if step <= steps})
    command += [f"eval_at=[{','.join(map(str, evaluated))}]"]
    if (at / "checkpoint").is_dir():
        command.append("--resume")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    at.parent.mkdir(parents=True, exist_ok=True)
    with open(out / f"{at.name}.log", "a", encoding="utf-8") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)


def at_seconds(rows: list[dict[str, Any]], seconds: float) -> float:
    """PSNR after so many seconds of optimisation, linear in their logarithm between evaluations; nan outside."""
    for one, two in pairwise(rows):
        if 0 < one["seconds"] <= seconds <= two["seconds"]:
            share = math.log(seconds / one["seconds"]) / math.log(two["seconds"] / one["seconds"])
            return float(one["psnr"] + share * (two["psnr"] - one["psnr"]))
    return math.nan


def table(out: Path, optimizers: list[str], seeds: int) -> str:
    """Markdown of all runs that there are, finished or not."""
    heads = ["run", "optimizer", *(f"{step:,}" for step in STEPS), "SSIM", "FLIP"]
    heads += [*(f"{second} s" for second in SECONDS), "Gaussians", "MB"]
    lines = [heads, ["---"] * len(heads)]
    for (scene, densify), optimizer, seed in product(RUNS, optimizers, range(seeds)):
        at = folder(out, scene, optimizer, seed)
        if not (at / "metrics.jsonl").is_file():
            continue
        rows = [json.loads(line) for line in (at / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        by_step = {row["step"]: row for row in rows}
        cells = [f"{by_step[step]['psnr']:.2f}" if step in by_step else "" for step in STEPS]
        cells += [f"{rows[-1][name]:.3f}" if rows[-1].get(name) is not None else "" for name in ("ssim", "flip")]
        cells += [f"{psnr:.2f}" if math.isfinite(psnr := at_seconds(rows, second)) else "" for second in SECONDS]
        ply = at / "point_cloud.ply"
        cells += [f"{rows[-1]['gaussians']:,}", f"{ply.stat().st_size / 1e6:.1f}" if ply.is_file() else ""]
        lines.append([f"{scene}, {densify}, seed {seed}", optimizer, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--optimizers", default="adam,adam-tuned,l2s", help="names, comma-separated")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS[-1])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--only-report", action="store_true", help="table of the runs there are")
    arguments = parser.parse_args()
    optimizers = arguments.optimizers.split(",")
    if not arguments.only_report:
        with ThreadPoolExecutor(arguments.workers) as pool:
            waiting = [
                pool.submit(run, arguments.out, arguments.captures, scene, densify, optimizer, seed, arguments.steps)
                for seed in range(arguments.seeds)
                for (scene, densify), optimizer in product(RUNS, optimizers)
            ]
            for one in waiting:
                one.result()
    print(table(arguments.out, optimizers, arguments.seeds))


if __name__ == "__main__":
    main()
