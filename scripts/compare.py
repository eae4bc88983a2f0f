"""Optimizers against tuned Adam and the oracle of the Adam grid, on scenes that none of them was trained on.

    python scripts/compare.py --rows tier_a.sqlite --optimizers adam,adam-tuned,outputs/meta/learned-rule/optimizer

Tier A: banana and brighton_beach (read only what an optimizer was not trained on) and six procedural scenes,
128 px, at most 2,000 Gaussians, 500 steps. Rows that are in the file are not measured again. NAME+guard is NAME with
its guard.
"""

from __future__ import annotations

import argparse
from pathlib import Path

STEPS = (0, 10, 20, 50, 100, 200, 500)
PROCEDURAL = range(300000, 300006)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--scenes", default="banana,brighton_beach", help="captures, comma-separated; may be empty")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--optimizers", default="adam,adam-tuned")
    parser.add_argument("--views", default="dense")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--no-grid", action="store_true")
    arguments = parser.parse_args()

    from learn2splat.eval.methods import GUARDED, adam_grid, method
    from learn2splat.eval.protocol import Budgets, Task, run_task
    from learn2splat.eval.statistics import guard_use, markdown, oracle
    from learn2splat.eval.store import RowStore
    from learn2splat.render.auto import auto_renderer

    names = [str(arguments.captures / name) for name in arguments.scenes.split(",") if name]
    names += [f"procedural:seed={seed},views=24,width=128" for seed in PROCEDURAL]
    learned = [method(name) for name in arguments.optimizers.split(",")]
    grid = [] if arguments.no_grid else adam_grid()
    store, renderer = RowStore(arguments.rows), auto_renderer()
    steps = (*(step for step in STEPS if step < arguments.steps), arguments.steps)
    for name in names:
        for views in arguments.views.split(","):
            run_task(Task(name, views=views), [*learned, *grid], Budgets(steps=steps), store, renderer)
            print("measured", name, views, flush=True)
    rows = store.rows()
    labels = [entry.name for entry in learned]
    if grid:
        rows += oracle(rows, [entry.name for entry in grid])
        labels.append("oracle")
    print(markdown(rows, labels))
    for label in labels:
        if label.endswith(GUARDED):
            print(guard_use(rows, label))
    for reference in ("adam-tuned", "oracle"):
        if reference in labels:
            print(f"\nagainst {reference}:\n\n{markdown(rows, labels, reference=reference)}")


if __name__ == "__main__":
    main()
