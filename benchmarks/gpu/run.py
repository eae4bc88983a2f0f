"""Whole runs on a GPU, learned against conventional: held-out PSNR, milliseconds per step, Gaussians, peak memory.

    python benchmarks/gpu/run.py --scene ../shared/scenes/fox                                   # 2,000 steps, full size
    python benchmarks/gpu/run.py --scene ../shared/scenes/fox --steps 30000 --densify default
    python benchmarks/gpu/run.py --scene ../shared/scenes/monstree --steps 30000 --densify mcmc

One run after the other, each with snapshots in OUT/OPTIMIZER, so that the same command goes on where it was killed;
other settings take another OUT. Finished runs are not made again.
Written without a GPU at hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

AT = (0, 10, 30, 100, 300, 1000, 2000, 3000, 10000, 30000)


def rows(folder: Path) -> list[dict[str, float]]:
    """The evaluations on held-out views of a run in ``folder``."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["split"] == "test"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--densify", default="none")
    parser.add_argument("--optimizers", default="adam,adam-tuned,l2s")
    parser.add_argument("--batch-views", type=int, default=1)
    parser.add_argument("--max-size", type=int, default=1600)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    out = arguments.out or Path("outputs/gpu") / f"{arguments.scene.name}-{arguments.densify}-{arguments.steps}"
    for optimizer in arguments.optimizers.split(","):
        folder = out / optimizer
        if (folder / "summary.json").exists():
            continue
        if (folder / "checkpoint").exists():
            command = ["--resume"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
            at = ",".join(str(step) for step in AT if step <= arguments.steps)
            options = {
                key: getattr(arguments, key)
                for key in ("scene", "steps", "densify", "batch_views", "max_size", "device")
            }
            options |= {"optimizer": optimizer, "eval_at": at}
            command = [text for key, value in options.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        subprocess.run([sys.executable, "-m", "learn2splat.cli", "optimize", "--out", folder, *command], check=True)
    print("| optimizer | step | PSNR | SSIM | s | render, ms | update, ms | Gaussians | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for optimizer in arguments.optimizers.split(","):
        for row in rows(out / optimizer):
            per_step = [1e3 * row[f"seconds_{part}"] / max(1, row["step"]) for part in ("render", "update")]
            print(
                f"| {optimizer} | {row['step']:,} | {row['psnr']:.2f} | {row['ssim']:.3f} | {row['seconds']:.2f} "
                f"| {per_step[0]:.2f} | {per_step[1]:.2f} | {row['gaussians']:,} | {row['peak_memory_mb']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
