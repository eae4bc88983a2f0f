"""What learned precisions do for optimisation from three views, on scenes that they were not trained on.

    python scripts/uncertainty.py outputs/meta/implicit/uncertainty --rows uncertainty.jsonl --scenes 10
    python scripts/uncertainty.py HEAD --rows captures.jsonl --scenes 0 --captures banana brighton_beach --draws 6

Four runs per task: with and without precisions from the same initial scene, on clean photos and with a patch of one
context photo replaced after the prediction. Runs that are in the file are not made again. Printed: held-out PSNR
against steps, what is lost after the peak of a run and of the mean over tasks, what is lost by the patch, and the rank
correlation of precision with the number of views.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from learn2splat.config import build, compose
from learn2splat.eval.workers import kept_scene
from learn2splat.evidence import evidence
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.estimator import Ranges
from learn2splat.meta.tasks import Task
from learn2splat.optim.learned.pretrained import UNCERTAINTY, load_pretrained
from learn2splat.predict.uncertainty import GROUPS, UncertaintyHead
from learn2splat.residuals import RootPhotometric
from learn2splat.scene_loss import SceneLoss
from learn2splat.scoring import UncertaintyScore


def correlations(head: UncertaintyHead, score: UncertaintyScore, task: Task) -> list[float]:
    """Spearman's, of each group's precision with minus the number of views, over the Gaussians that a view sees."""
    loss = SceneLoss(task.data, score.renderer, PhotometricLoss())
    seen = evidence(loss, RootPhotometric(PhotometricLoss()), task.initial, task.data.train)
    with torch.no_grad():
        precision = head(seen.features, seen.curvature).by_group
    drawn = seen.views > 0
    return [float(spearmanr(column[drawn], -seen.views[drawn]).statistic) for column in precision.unbind(dim=1)]


def measured(
    head: UncertaintyHead, score: UncertaintyScore, ranges: dict[str, Ranges[Task]], name: str, draw: int
) -> dict[str, Any]:
    """One row."""
    data = kept_scene(name, score.config.max_size, 0)
    row: dict[str, Any] = {"scene": name, "draw": draw}
    for which, tasks in ranges.items():
        task = tasks.draw(data, torch.Generator().manual_seed(draw))
        row |= {f"{which}/off": score.curve(None, task), f"{which}/on": score.curve(head, task)}
        row["gaussians"] = len(task.initial)
        if which == "clean":
            row["correlations"] = correlations(head, score, task)
    return row


def summary(rows: list[dict[str, Any]], steps: list[int]) -> str:
    """Means over scenes with standard errors."""

    def mean(values: list[float]) -> str:
        found = torch.tensor(values, dtype=torch.float64)
        error = float(found.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return f"{float(found.mean()):+.3f} +- {error:.3f}"

    lines = [f"{len(rows)} tasks", "run            " + "".join(f"{step:>8}" for step in steps)]
    for run in ("clean/off", "clean/on", "corrupted/off", "corrupted/on"):
        curve = torch.tensor([row[run] for row in rows]).mean(dim=0)
        fall = f"  end {float(curve.max() - curve[-1]):.2f} below the peak"
        lines.append(f"{run:<15}" + "".join(f"{value:8.2f}" for value in curve.tolist()) + fall)
    for which in ("off", "on"):
        falls = [max(row[f"clean/{which}"]) - row[f"clean/{which}"][-1] for row in rows]
        drops = [row[f"clean/{which}"][-1] - row[f"corrupted/{which}"][-1] for row in rows]
        lines.append(f"{which}: end below the peak {mean(falls)} dB, lost by the patch {mean(drops)} dB")
    lines.append(f"end, on - off: {mean([row['clean/on'][-1] - row['clean/off'][-1] for row in rows])} dB")
    for number, group in enumerate(GROUPS):
        found = [row["correlations"][number] for row in rows if math.isfinite(row["correlations"][number])]
        lines.append(f"rank correlation of precision with few views, {group}: {mean(found) if found else 'none'}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", help="folder of the trained head")
    parser.add_argument("--rows", type=Path, required=True, help="file of finished scenes, one JSON line each")
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=600000)
    parser.add_argument("--captures", nargs="*", default=[], help="folders of more scenes")
    parser.add_argument("--draws", type=int, default=1, help="tasks per scene, of different views")
    parser.add_argument("--steps", default="20,50,100,200,500,1000", help="after which to evaluate")
    parser.add_argument("overrides", nargs="*", help="of configs/meta_train.yaml, e.g. ranges.gaussians=150")
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    steps = [int(step) for step in arguments.steps.split(",")]
    config = compose("meta_train", ["experiment=implicit", *arguments.overrides])
    config.score.steps = steps
    ranges = {}
    for which, share in (("clean", 0.0), ("corrupted", 1.0)):
        config.ranges.share_corrupted = share
        ranges[which] = build(config.ranges)
    score = build(config.score, config=config.validation, renderer=config.renderer)
    head = load_pretrained(arguments.head, UNCERTAINTY)
    assert isinstance(head, UncertaintyHead)
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    made, done = config.validation, {(row["scene"], row.get("draw", 0)) for row in rows}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    names = [f"procedural:seed={seed},views={made.views},width={made.width}{made.spec}" for seed in seeds]
    for name, draw in itertools.product([*names, *arguments.captures], range(arguments.draws)):
        if (name, draw) not in done:
            rows.append(measured(head, score, ranges, name, draw))
            with arguments.rows.open("a") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    print(summary(rows, steps))


if __name__ == "__main__":
    main()
