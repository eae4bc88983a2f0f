"""Optimizers against tuned Adam and the oracle of the Adam grid, on scenes that none of them was trained on.

    python scripts/compare.py --tier a --rows tier_a.sqlite --optimizers adam,adam-tuned,outputs/meta/rule/optimizer
    python scripts/compare.py --tier b --rows tier_b.sqlite --optimizers adam,adam-tuned,sgd,learned-rule,l2s-tiny

Tier A: banana and brighton_beach (read only what an optimizer was not trained on) and six procedural scenes, 128 px,
at most 2,000 Gaussians, 500 steps. Tier B: four captures that nothing was designed or trained on and twenty
procedural scenes, 256 px, all points, 2,000 steps. Tier `few`: the captures with few views, without the grid. Tier
`views`: training captures and four procedural scenes with all, 8 and 3 views, for decisions about the design.
Rows that are in the file are not measured again, so that a killed comparison goes on where it was. NAME+guard is
NAME with its guard.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from learn2splat.eval.methods import GUARDED, adam_grid, method, pinned
from learn2splat.eval.protocol import Budgets, run_task
from learn2splat.eval.statistics import guard_use, markdown, oracle
from learn2splat.eval.store import RowStore
from learn2splat.eval.task import Task
from learn2splat.render.auto import auto_renderer


@dataclass(frozen=True)
class Tier:
    """What is compared on.

    Args:
        captures: pairs (scene, views).
        procedural: seeds.
        views: of the procedural scenes.
        size: long side of the photos in pixels, and width of procedural scenes.
        gaussians: most Gaussians, or None.
        steps: when to evaluate.
        grid: whether the Adam grid runs too.
    """

    captures: tuple[tuple[str, str], ...]
    procedural: range
    size: int
    gaussians: int | None
    steps: tuple[int, ...]
    grid: bool = True
    views: tuple[str, ...] = ("dense",)


EARLY = (0, 10, 20, 50, 100, 200, 500)
LATE = (*EARLY, 1000, 2000)
UNSEEN = ("fox", "sceaux", "monstree", "mother_child")
TIERS = {
    "a": Tier((("banana", "dense"), ("brighton_beach", "dense")), range(300000, 300006), 128, 2000, EARLY),
    "b": Tier(tuple((name, "dense") for name in UNSEEN), range(500000, 500020), 256, None, LATE),
    "views": Tier(
        tuple((name, views) for name in ("banana", "brighton_beach") for views in ("dense", "sparse:8", "sparse:3")),
        range(400000, 400004),
        128,
        2000,
        (*EARLY, 1000),
        grid=False,
        views=("dense", "sparse:8", "sparse:3"),
    ),
    "few": Tier(
        (
            *((name, views) for name in ("fox", "monstree", "brighton_beach") for views in ("sparse:3", "sparse:8")),
            *((name, "dense") for name in ("sceaux", "banana", "mother_child")),
        ),
        range(0),
        256,
        None,
        LATE,
        grid=False,
    ),
}


def tasks_of(tier: Tier, captures: Path) -> list[Task]:
    """Its tasks; ``captures`` is the folder of the captures."""
    base = Task("", max_size=tier.size, max_gaussians=tier.gaussians)
    tasks = [replace(base, scene=str(captures / name), views=views) for name, views in tier.captures]
    for seed in tier.procedural:
        scene = f"procedural:seed={seed},views=24,width={tier.size}"
        tasks += [replace(base, scene=scene, views=views) for views in tier.views]
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS, default="a")
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--optimizers", default="adam,adam-tuned", help="names or folders, comma-separated")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scenes", type=int, help="only so many, from the first")
    parser.add_argument("--named", help="only scenes whose names contain one of these, comma-separated")
    parser.add_argument("--steps", help="when to evaluate, comma-separated, instead of the tier's")
    parser.add_argument("--no-grid", action="store_true")
    parser.add_argument("--only-report", action="store_true", help="tables of the rows there are")
    arguments = parser.parse_args()

    tier = TIERS[arguments.tier]
    if arguments.steps:
        tier = replace(tier, steps=tuple(map(int, arguments.steps.split(","))))
    tasks = tasks_of(tier, arguments.captures)
    if arguments.named:
        tasks = [task for task in tasks if any(name in task.scene for name in arguments.named.split(","))]
    compared = [pinned(method(name)) for name in arguments.optimizers.split(",")]
    grid = adam_grid() if tier.grid and not arguments.no_grid else []
    store, renderer = RowStore(arguments.rows), auto_renderer()
    for task in [] if arguments.only_report else tasks[: arguments.scenes]:
        for seed in range(arguments.seeds):
            run_task(replace(task, seed=seed), [*compared, *grid], Budgets(steps=tier.steps), store, renderer)
        print("measured", task.scene, task.views, flush=True)
    rows = [row for row in store.rows() if row.kind == "steps"]
    labels = [entry.name for entry in compared]
    if grid:
        rows += oracle(rows, [entry.name for entry in grid])
        labels.append("oracle")
    for views in sorted({task.views for task in tasks}):
        for kind in ("captures", "procedural scenes"):
            chosen = [row for row in rows if (f'"views": "{views}"' in row.task) and _kind(row.task) == kind]
            if chosen and "adam-tuned" in labels:
                print(f"\n{kind}, {views}, against adam-tuned:\n\n{markdown(chosen, labels, reference='adam-tuned')}")
    print(f"\nall:\n\n{markdown(rows, labels)}")
    for label in labels:
        if label.endswith(GUARDED):
            print(guard_use(rows, label))
    for reference in ("adam-tuned", "oracle"):
        if reference in labels:
            print(f"\nagainst {reference}:\n\n{markdown(rows, labels, reference=reference)}")


def _kind(task: str) -> str:
    return "procedural scenes" if "procedural:" in task else "captures"


if __name__ == "__main__":
    main()
