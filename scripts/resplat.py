"""Feed-forward initialisation and recurrent refinement on scenes that nothing was trained on: the tables.

    python scripts/resplat.py --rows resplat.jsonl --initialiser outputs/meta/predict/initialiser \\
        --updater outputs/meta/resplat/optimizer --scenes 30
    python scripts/resplat.py ... --captures ../shared/scenes/banana

From the same predicted Gaussians go on: the updater, the updater with its error maps zeroed (what scales its updates
by the size of the errors is left), with its gradients zeroed if it reads any, and with both, optimizers, and the last
of these after four iterations of the updater; the same optimizer also starts from at most as many points of SfM (which
saw all photos) and from random ones. All see the same few views; held-out views judge. Curves that are in the file of
rows are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.data.views import RandomViews, choose_views
from learn2splat.errors import UserError
from learn2splat.eval.methods import method
from learn2splat.eval.statistics import Summary, summarise, win_rate
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.contexts import ContextRanges
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.pretrained import load_pretrained
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.predict.base import Prediction
from learn2splat.render.auto import auto_renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene_loss import SceneLoss
from learn2splat.start import REFINED_WORTH, start_prediction

ITERATIONS, FURTHER = 4, 8
"""Iterations that the updater is trained for, and how many are looked at."""
MARKS = (*range(21), 25, 30, 40, 50, 70, 100, 150, 200)
"""Steps after which optimizers are looked at."""
SHOWN = (0, 10, 50, 100)
UPDATER, SH_DEGREE, BATCH = "updater", 1, 4
BLIND = {
    "errors zeroed": ("pixels", "errors"),
    "gradients zeroed": ("descent",),
    "errors and gradients zeroed": ("pixels", "errors", "descent"),
}
"""Parts of the updater that are zeroed."""

Curve = dict[str, tuple[float, float]]
"""Step, as text -> (held-out PSNR in dB, seconds of optimisation)."""


def curve(
    loss: SceneLoss,
    views: tuple[list[int], list[int]],
    optimizer: SceneOptimizer,
    start: Prediction,
    marks: list[int],
    head_start: int = 0,
) -> tuple[Curve, Prediction]:
    """What ``optimizer`` makes of ``start``, and the Gaussians at the last of ``marks``."""
    train, test = views
    state = RolloutState.start(start.scene, optimizer, features=start.features)
    sampler = RandomViews(loss.data.cameras, train, BATCH, seed=0)
    rollout = Rollout(loss, train, optimizer, sampler, state, horizon=marks[-1], head_start=head_start)
    found: Curve = {"0": (loss.psnr(start.scene, test), 0.0)}
    for record in rollout.run(marks[-1]):
        if record.step in marks:
            found[str(record.step)] = (loss.psnr(rollout.state.output, test), rollout.state.seconds)
    return found, Prediction(rollout.state.scene)


def blinded(updater: RecurrentUpdater) -> dict[str, RecurrentUpdater]:
    """Copies of which some parts are zeroed, by label, as far as ``updater`` has such parts."""
    found = {}
    for label, parts in BLIND.items():
        other = copy.deepcopy(updater)
        layers = dict(other.named_children())
        if layers.keys() >= set(parts):
            for parameter in torch.nn.ModuleList(layers[part] for part in parts).parameters():
                torch.nn.init.zeros_(parameter)
            found[f"{UPDATER}, {label}"] = other
    return found


def near_views(data: SceneData, arguments: argparse.Namespace) -> tuple[list[int], list[int]]:
    """Context views that lie together, and four targets among them, as in training and in the publication."""
    size, count = (arguments.size,) * 2, (arguments.near,) * 2
    drawn = ContextRanges(count, long_side=size).draw(data, torch.Generator().manual_seed(arguments.seed))
    return list(drawn.train), list(drawn.test)


def measured(
    name: str,
    arguments: argparse.Namespace,
    updater: RecurrentUpdater | None,
    optimizers: Sequence[str],
    known: dict[str, Curve],
) -> dict[str, Any]:
    """All curves of one scene, of which some are ``known``."""
    data = load_scene(name, max_size=arguments.size)
    views = near_views(data, arguments) if arguments.near else choose_views(data, arguments.views, arguments.seed)
    loss = SceneLoss(data, auto_renderer(), PhotometricLoss())
    curves = dict(known)

    predicted = start_prediction(data, views[0], f"predict:{arguments.initialiser}", sh_degree=SH_DEGREE)
    count = len(predicted.scene)

    def run(
        label: str, optimizer: SceneOptimizer, start: Prediction, marks: Sequence[int] = MARKS, head_start: int = 0
    ) -> None:
        if label not in curves:
            curves[label], _ = curve(loss, views, optimizer, start, list(marks), head_start)

    for optimizer in optimizers:
        run(f"predict, {optimizer}", method(optimizer).build(), predicted)
    last = method(optimizers[-1]).build
    for kind in ("sfm", "random"):
        try:
            start = start_prediction(
                data, views[0], kind, sh_degree=SH_DEGREE, random_count=count, max_gaussians=count, seed=arguments.seed
            )
            run(f"{kind}, {optimizers[-1]}", last(), start)
        except UserError as error:
            print(f"{name}, {kind}: {error}")
    if updater is not None:
        _, refined = curve(loss, views, updater, predicted, [ITERATIONS])
        run(UPDATER, updater, predicted, range(FURTHER + 1))
        for label, other in blinded(updater).items():
            run(label, other, predicted, range(ITERATIONS + 1))
        run(f"predict, {UPDATER}, {optimizers[-1]}", last(), refined, head_start=REFINED_WORTH)
    return {"scene": name, "gaussians": count, "views": len(views[0]), "curves": curves}


def cell(summary: Summary, sign: bool = False) -> str:
    """Mean and interval."""
    form = "+.2f" if sign else ".2f"
    return f"{summary.mean:{form}} [{summary.low:{form}}, {summary.high:{form}}]"


def values(rows: Sequence[dict[str, Any]], label: str, step: int, what: int = 0) -> list[float]:
    """PSNR (or, ``what`` = 1, seconds) of one line at one step; where a run ended early, of its end."""
    return [
        row["curves"][label].get(str(step), list(row["curves"][label].values())[-1])[what]
        for row in rows
        if label in row["curves"]
    ]


def refinement_table(rows: Sequence[dict[str, Any]]) -> str:
    """PSNR and gain of every iteration."""
    zeroed = [label for label in BLIND if f"{UPDATER}, {label}" in rows[0]["curves"]]
    names = ["iteration", "PSNR", "gain of it", "gain of all", "better than at 0", *zeroed]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    zero, before = values(rows, UPDATER, 0), values(rows, UPDATER, 0)

    def gain(now: Sequence[float], past: Sequence[float]) -> str:
        return cell(summarise([a - b for a, b in zip(now, past, strict=True)]), True)

    for step in range(FURTHER + 1):
        now = values(rows, UPDATER, step)
        better = win_rate([a - b for a, b in zip(now, zero, strict=True)])
        cells = [str(step), f"{summarise(now).mean:.2f}", gain(now, before), gain(now, zero), f"{100 * better:.0f} %"]
        unseeing = [values(rows, f"{UPDATER}, {label}", step) for label in zeroed]
        cells += [gain(now, zero) if step <= ITERATIONS else "" for now in unseeing]
        lines.append(f"| {' | '.join(cells)} |")
        before = now
    return "\n".join(lines)


def matching_table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """When optimizers are as good as the updater after its iterations."""
    goals = values(rows, UPDATER, ITERATIONS)
    lines = [
        "| from the same Gaussians | median steps to match | never within 200 | median seconds | mean curve: steps |"
    ]
    lines += ["|---|---|---|---|---|"]
    own = summarise(values(rows, UPDATER, ITERATIONS, 1)).median
    lines.append(f"| updater | {ITERATIONS} | | {own:.3f} | {ITERATIONS} |")
    for label in labels:
        reached = [matched(row["curves"][label], goal) for row, goal in zip(rows, goals, strict=True)]
        steps, seconds = (summarise([entry[i] for entry in reached]).median for i in (0, 1))
        never = sum(entry[0] == float("inf") for entry in reached)
        means = [step for step in MARKS if summarise(values(rows, label, step)).mean >= summarise(goals).mean]
        first = means[0] if means else "-"
        lines.append(f"| {label} | {steps:g} | {never} of {len(rows)} | {seconds:.3f} | {first} |")
    return "\n".join(lines)


def matched(one: Curve, goal: float) -> tuple[float, float]:
    """(steps, seconds) after which ``one`` is at ``goal``; infinite when it never is."""
    return next(((float(step), seconds) for step, (psnr, seconds) in one.items() if psnr >= goal), (float("inf"),) * 2)


def start_table(rows: Sequence[dict[str, Any]], labels: Sequence[str], against: str) -> str:
    """PSNR of every start at a few steps, and how much better it is than ``against``."""
    lines = [f"| start, optimizer | {' | '.join(f'{step} steps' for step in SHOWN)} |", "|---|" + "---|" * len(SHOWN)]
    for label in labels:
        found = [summarise(values(rows, label, step)).mean for step in SHOWN]
        lines.append(f"| {label} | {' | '.join(f'{mean:.2f}' for mean in found)} |")
    for label in labels:
        both = [row for row in rows if {label, against} <= row["curves"].keys()]
        if label != against and both:
            pairs = [zip(values(both, label, step), values(both, against, step), strict=True) for step in SHOWN]
            found = [cell(summarise([a - b for a, b in pair]), True) for pair in pairs]
            lines.append(f"| {label} - {against} | {' | '.join(found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--initialiser", required=True)
    parser.add_argument("--updater", help="without one, only starts are compared")
    parser.add_argument(
        "--optimizers", default="adam,adam-tuned,l2s", help="with commas; the last goes on from all starts"
    )
    parser.add_argument("--scenes", type=int, default=30, help="unseen procedural ones")
    parser.add_argument("--first", type=int, default=600000, help="seed of the first scene")
    parser.add_argument("--captures", nargs="*", default=[], help="instead of procedural scenes")
    parser.add_argument("--views", default="sparse:8", help="of the whole capture")
    parser.add_argument("--near", type=int, help="so many views that lie together instead, judged by those among them")
    parser.add_argument("--size", type=int, default=64, help="long side of the photos in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    updater = None
    if arguments.updater:
        loaded = load_pretrained(arguments.updater)
        assert isinstance(loaded, RecurrentUpdater)
        updater = loaded
    optimizers = arguments.optimizers.split(",")
    made = [f"procedural:seed={arguments.first + i},views=24,width={arguments.size}" for i in range(arguments.scenes)]
    done = {row["scene"]: row for row in map(json.loads, arguments.rows.open())} if arguments.rows.exists() else {}
    for name in arguments.captures or made:
        curves = done.get(name, {"curves": {}})["curves"]
        if (UPDATER if updater else f"predict, {optimizers[-1]}") not in curves:
            done[name] = measured(name, arguments, updater, optimizers, curves)
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[name]) + "\n")
            print("measured", name, flush=True)
    report([done[name] for name in arguments.captures or made], optimizers, print)


def report(rows: Sequence[dict[str, Any]], optimizers: Sequence[str], write: Callable[[str], None]) -> None:
    """All tables."""
    last = f"predict, {optimizers[-1]}"
    starts = [f"sfm, {optimizers[-1]}", f"random, {optimizers[-1]}", last]
    if UPDATER in rows[0]["curves"]:
        write(f"\n{refinement_table(rows)}\n\n{matching_table(rows, [f'predict, {name}' for name in optimizers])}")
        starts.append(f"predict, {UPDATER}, {optimizers[-1]}")
    present = [label for label in starts if any(label in row["curves"] for row in rows)]
    write(f"\n{start_table(rows, present, against=present[0])}")


if __name__ == "__main__":
    main()
