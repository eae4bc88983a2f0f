"""Initialisers trained in several ways, and what an optimizer makes of their predictions on unseen scenes.

    python scripts/foresight.py outputs/foresight horizon=100 --inner adam-tuned --optimizers adam-tuned \\
        --arms metagrad vanilla --seeds 0 1 2
    python scripts/foresight.py outputs/pairs --optimizers l2s outputs/meta/cotrain/1/optimizer \\
        --also both=outputs/meta/cotrain/1/initialiser

Every arm is trained from the same initialiser (`l2s meta-train experiment=foresight`), one folder per arm and seed;
overrides after the folder, as key=value, go to all trainings. Each is shown, and then optimised on, the same context
views; others judge. What is trained or measured already is not done again, so other settings need another folder.
`vanilla` makes as many more meta-steps as its own are cheaper; the seconds that an arm took are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from omegaconf import DictConfig

from learn2splat import checkpoint
from learn2splat.config import build, compose
from learn2splat.data.sources import load_scene
from learn2splat.eval.methods import method, pinned
from learn2splat.eval.protocol import Budgets, run_task
from learn2splat.eval.statistics import differences, markdown, per_scene, summarise
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import Start, Task
from learn2splat.evidence import predicted_proximal
from learn2splat.meta.progress import Progress
from learn2splat.meta.train import CHECKPOINT_KIND
from learn2splat.optim.learned.pretrained import INITIALISER, is_pretrained
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.predict.views import MOST_VIEWS
from learn2splat.proximal import Proximal
from learn2splat.render.auto import auto_renderer
from learn2splat.training import meta_train

HELD = "held"
MARKS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000)
ARMS = {
    "vanilla": ["estimator.now=1"],
    "metagrad": [],
    "stride-1": ["credit.stride=1"],
    "stride-4": ["credit.stride=4"],
    "stride-16": ["credit.stride=16"],
    "one-anchor": ["credit.stride=1000"],
    "lambda-0.25": ["estimator.now=0.25"],
    "lambda-0.5": ["estimator.now=0.5"],
    "lambda-0.75": ["estimator.now=0.75"],
    "reptile": ["credit=reptile", "train.lr=1e-4"],
    "diff3r": ["credit=implicit"],
    "everything": ["only=null"],
    "everything-vanilla": ["only=null", "estimator.now=1"],
}
"""Overrides of ``configs/experiment/foresight.yaml``."""


def trained(arm: str, seed: int, arguments: argparse.Namespace) -> str:
    """The folder of an initialiser, trained unless it is there."""
    folder = arguments.out / arm / str(seed)
    if is_pretrained(str(folder / INITIALISER)):
        return str(folder / INITIALISER)
    config = composed(arguments, *ARMS[arm], f"train.seed={seed}", f"out={folder}")
    if config.estimator.now == 1:
        config.train.meta_steps = round(arguments.cheaper * config.train.meta_steps)
        config.train.validate_every = round(arguments.cheaper * config.train.validate_every)
    found = meta_train(config, stop=lambda: False)
    progress = Progress(**checkpoint.load(folder / "checkpoint-0", CHECKPOINT_KIND)[1]["progress"])
    seconds = sum(progress.column("seconds")[1])
    print(f"trained {arm} {seed}: {progress.meta_step} meta-steps, {seconds:.0f} s, {progress.best}", flush=True)
    return str(found)


def composed(arguments: argparse.Namespace, *overrides: str) -> DictConfig:
    inner = [] if arguments.inner is None else [f"optimizer@inner={arguments.inner}"]
    return compose("meta_train", ["experiment=foresight", *inner, *arguments.overrides, *overrides])


def measured(folders: Sequence[str], arguments: argparse.Namespace, marks: Sequence[int]) -> dict[str, list[Row]]:
    """The rows of each of ``folders``."""
    config, budgets = composed(arguments), Budgets(tuple(marks))
    ranges, size = build(config.ranges), max(config.ranges.long_side)
    methods = [pinned(method(name)) for name in arguments.optimizers]
    if arguments.held is not None:
        methods += [replace(m, name=f"{m.name}, {HELD}", hold=partial(held, arguments.held)) for m in methods]
    store, keys = RowStore(arguments.out / "rows.sqlite"), {}
    for number in range(arguments.first, arguments.first + arguments.scenes):
        name = f"procedural:seed={number},views=24,width={size}"
        base = Task(name, max_size=size, max_gaussians=None, sh_degree=1, batch_views=MOST_VIEWS)
        tasks = {folder: replace(base, init=f"predict:{folder}") for folder in folders}
        keys |= {task.key: folder for folder, task in tasks.items()}
        missing = [t for t in tasks.values() if not all(store.has(t.key, one.name, budgets.key) for one in methods)]
        if missing:
            scene = load_scene(name, max_size=size, test_every=0)
            data = ranges.draw(scene, torch.Generator().manual_seed(number))
        for task in missing:
            run_task(task, methods, budgets, store, auto_renderer(), data)
    found: dict[str, list[Row]] = {folder: [] for folder in folders}
    for row in store.rows():
        if row.task in keys:
            found[keys[row.task]].append(row)
    return found


def held(precision: float, start: Start) -> Proximal:
    """The pull to the prediction that `learn2splat.meta.implicit.Optimum` trains for."""
    return predicted_proximal(UncertaintyHead(start=precision), start.loss, start.scene, start.train)


def by_seed(rows: Sequence[Row], labels: Sequence[str], seeds: Sequence[int], mark: int) -> str:
    """Differences to the first of ``labels`` at the last mark, seed by seed, with intervals over scenes."""
    lines = [f"| after {mark} steps | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---|" + "---|" * len(seeds)]
    for label in labels[1:]:
        cells = []
        for seed in seeds:
            ours, theirs = (
                per_scene([row for row in rows if row.seed == seed], name, "steps", mark) for name in (label, labels[0])
            )
            s = summarise(differences(ours, theirs)) if ours and theirs else None
            cells.append("-" if s is None else f"{s.mean:+.2f} [{s.low:+.2f}, {s.high:+.2f}]")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def first_reached(rows: Sequence[Row], labels: Sequence[str], marks: Sequence[int]) -> str:
    """When each line's mean is as high as the end of the first line's, and its optimisation time at the end."""

    def mean(label: str, mark: int, metric: str) -> float:
        return summarise(list(per_scene(rows, label, "steps", mark, metric).values())).mean

    goal = mean(labels[0], marks[-1], "psnr")
    lines = [f"| | first mark at {goal:.2f} dB | seconds for {marks[-1]} steps |\n|---|---|---|"]
    for label in labels:
        reached = next((mark for mark in marks if mean(label, mark, "psnr") >= goal), None)
        lines.append(f"| {label} | {'-' if reached is None else reached} | {mean(label, marks[-1], 'seconds'):.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the study")
    parser.add_argument("--arms", nargs="*", default=[], choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--also", nargs="*", default=[], metavar="LABEL=FOLDER", help="initialisers to measure as well")
    parser.add_argument("--inner", help="configuration of the optimizer that is trained for; default as in the file")
    parser.add_argument("--optimizers", nargs="+", default=["adam"], help="names or folders to measure with")
    parser.add_argument("--held", type=float, help="measure with a pull to the prediction too, of this precision")
    parser.add_argument("--cheaper", type=float, default=6.0, help="a meta-step of vanilla, against one of metagrad")
    parser.add_argument("--first", type=int, default=600000, help="seed of the first scene")
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("overrides", nargs="*", help="of configs/meta_train.yaml for all trainings, e.g. horizon=100")
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    entries = [("start", 0, str(composed(arguments).start))]
    entries += [(arm, seed, trained(arm, seed, arguments)) for seed, arm in product(arguments.seeds, arguments.arms)]
    entries += [(label, 0, folder) for label, folder in (entry.split("=", 1) for entry in arguments.also)]
    marks = [mark for mark in MARKS if mark <= composed(arguments).horizon]
    found = measured([folder for _, _, folder in entries], arguments, marks)
    for name in dict.fromkeys(row.method for rows in found.values() for row in rows):
        rows = [
            replace(row, method=label, seed=seed)
            for label, seed, folder in entries
            for row in found[folder]
            if row.method == name
        ]
        labels = sorted({label for label, _, _ in entries}, key=[label for label, _, _ in entries].index)
        references = [label for label in ("start", "vanilla") if label in labels]
        print(f"\n{name}, means:\n\n{markdown(rows, labels)}")
        for reference in references:
            print(f"\nagainst {reference}:\n\n{markdown(rows, labels, reference=reference)}")
        first = sorted(labels, key=lambda label: label != references[-1])
        print(f"\n{by_seed(rows, first, arguments.seeds, marks[-1])}\n\n{first_reached(rows, first, marks)}")


if __name__ == "__main__":
    main()
