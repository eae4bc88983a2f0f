"""Initialisers side by side over the whole curve: what optimizers make of their predictions on unseen scenes.

    python scripts/foresight.py --rows foresight.sqlite --optimizers adam \\
        --initialisers plain=outputs/meta/predict/initialiser metagrad=outputs/meta/foresight/initialiser \\
        ranges.views=[3,4] ranges.long_side=[64,64]

All are shown, and then optimised on, the same context views; the others judge. The first initialiser is what the rest
is compared with, the first optimizer what the first initialiser is shown with. Any folder that `--init predict:FOLDER`
takes may take part. Rows that are in the file are not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from learn2splat.config import build, compose
from learn2splat.data.sources import load_scene
from learn2splat.eval.methods import method, pinned
from learn2splat.eval.protocol import Budgets, run_task
from learn2splat.eval.statistics import markdown, per_scene, summarise
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import Task
from learn2splat.predict.views import MOST_VIEWS
from learn2splat.render.auto import auto_renderer

MARKS = (0, 1, 2, 5, 10, 20, 50, 100, 150, 200, 500, 1000, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--initialisers", nargs="+", required=True, metavar="LABEL=FOLDER")
    parser.add_argument("--optimizers", default="adam", help="names or folders, with commas")
    parser.add_argument("--first", type=int, default=600000, help="seed of the first scene")
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1, help="of the choice of views")
    parser.add_argument("overrides", nargs="*", help="of configs/meta_train.yaml: ranges.*, horizon")
    arguments = parser.parse_intermixed_args()
    config = compose("meta_train", ["experiment=foresight", *arguments.overrides])
    ranges, size = build(config.ranges), max(config.ranges.long_side)
    budgets = Budgets(tuple(mark for mark in MARKS if mark <= config.horizon))
    folders = dict(entry.split("=", 1) for entry in arguments.initialisers)
    methods = [pinned(method(name)) for name in arguments.optimizers.split(",")]
    store, labels = RowStore(arguments.rows), {}
    for number, seed in product(range(arguments.first, arguments.first + arguments.scenes), range(arguments.seeds)):
        name = f"procedural:seed={number},views=24,width={size}"
        base = Task(name, seed, max_size=size, max_gaussians=None, sh_degree=1, batch_views=MOST_VIEWS)
        tasks = {replace(base, init=f"predict:{folder}"): label for label, folder in folders.items()}
        missing = [t for t in tasks if not all(store.has(t.key, one.name, budgets.key) for one in methods)]
        if missing:
            scene = load_scene(name, max_size=size, test_every=0)
            data = ranges.draw(scene, torch.Generator().manual_seed(1000 * seed + number))
        for task in missing:
            run_task(task, methods, budgets, store, auto_renderer(), data)
            print("measured", name, seed, tasks[task], flush=True)
        labels |= {task.key: label for task, label in tasks.items()}
    rows = [replace(row, method=f"{labels[row.task]}, {row.method}") for row in store.rows() if row.task in labels]
    names = [f"{label}, {one.name}" for one in methods for label in folders]
    print(f"\nagainst {names[0]}:\n\n{markdown(rows, names, reference=names[0])}")
    print(f"\nmeans:\n\n{markdown(rows, names)}\n\n{first_reached(rows, names, budgets.steps)}")


def first_reached(rows: Sequence[Row], names: Sequence[str], marks: Sequence[int]) -> str:
    """When each line's mean is as high as the end of the first line's, and its optimisation time at the end."""

    def mean(name: str, mark: int, metric: str) -> float:
        return summarise(list(per_scene(rows, name, "steps", mark, metric).values())).mean

    goal = mean(names[0], marks[-1], "psnr")
    lines = [f"| method | first mark at {goal:.2f} dB | seconds for {marks[-1]} steps |\n|---|---|---|"]
    for name in names:
        reached = next((mark for mark in marks if mean(name, mark, "psnr") >= goal), None)
        lines.append(f"| {name} | {'-' if reached is None else reached} | {mean(name, marks[-1], 'seconds'):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
