"""The table of conventional optimizers on captures: held-out PSNR and SSIM at fixed steps, and seconds.

    python scripts/baselines.py --captures ../shared/scenes --rows baselines.jsonl

Rows that are in the file already are not run again; the table of all rows is printed at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SCENES = ("fox", "sceaux", "banana", "brighton_beach", "monstree", "mother_child")
EVAL_AT = (100, 500, 1000, 2000)


def run(scene: Path, views: str, optimizer: str, max_size: int) -> list[dict[str, Any]]:
    """Evaluations of one run."""
    from learn2splat.api import optimize

    steps = EVAL_AT[-1]
    result = optimize(
        scene,
        optimizer=optimizer,
        steps=steps,
        eval_at=list(EVAL_AT),
        views=views,
        max_size=max_size,
        guard="off",
    )
    key = {"scene": scene.name, "views": views, "optimizer": optimizer, "outcome": result.outcome.kind.value}
    return [key | row for row in result.metrics]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per run, one column per step."""
    lines = ["| scene | views | optimizer | " + " | ".join(f"@{step} dB / SSIM / s" for step in EVAL_AT) + " |"]
    lines.append("|---|---|---|" + "---|" * len(EVAL_AT))
    runs: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault((row["scene"], row["views"], row["optimizer"]), {})[row["step"]] = row
    for key, found in sorted(runs.items()):
        cells = []
        for step in EVAL_AT:
            row = found.get(step)
            cells.append("-" if row is None else f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['seconds']:.1f}")
        lines.append(f"| {' | '.join(key)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--rows", type=Path, default=Path("baselines.jsonl"))
    parser.add_argument("--optimizers", default="adam,adam-tuned")
    parser.add_argument("--views", default="dense,sparse:3")
    parser.add_argument("--max-size", type=int, default=256)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    done = {(row["scene"], row["views"], row["optimizer"]) for row in rows}
    for name in SCENES:
        for views in arguments.views.split(","):
            for optimizer in arguments.optimizers.split(","):
                if (name, views, optimizer) in done:
                    continue
                found = run(arguments.captures / name, views, optimizer, arguments.max_size)
                rows += found
                with arguments.rows.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
                print(
                    name, views, optimizer, f"{found[-1]['psnr']:.2f} dB", f"{found[-1]['seconds']:.0f} s", flush=True
                )
    print(table(rows))


if __name__ == "__main__":
    main()
