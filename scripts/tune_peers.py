"""How the step sizes of adafactor, adamw-gs, muon, sgd, soap and torch-* in `configs/optimizer` were chosen.

    python scripts/tune_peers.py --captures ../shared/scenes --rows tuning.sqlite

Candidates are a multiplier of gsplat's rates with the means in pixel footprints, falling as those of adam-tuned do;
where Adam is inside, adam-tuned itself too. The bridge to torch.optim takes means in extents of the scene. Descent by
the bare gradient has no scale of its own: its rates are gsplat's by the size of a typical gradient of each group. The
score is held-out PSNR, averaged over STEPS and over `banana` and two procedural scenes, at 128 px and at most 2,000
Gaussians; nothing else is looked at. Rows in the file are not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learn2splat.optim.base import SceneOptimizer

STEPS = (20, 50, 100, 200, 300)
MULTIPLIERS = (1, 3, 10, 30, 100)
TORCH = ("RMSprop", "NAdam", "Adagrad")
SGD_RATES = {"means": 0.6, "log_scales": 20.0, "quats": 10.0, "logit_opacities": 100.0, "sh0": 12.0, "shN": 0.6}
"""Gsplat's rates by the root mean square of each group's gradients at the start of the scenes below."""
OPACITY_DECAYS, SCALE_DECAYS = (0.0, 0.001, 0.01), (0.03, 0.1, 0.3, 1.0)
PROCEDURAL_SEEDS = (101, 102)


def candidates() -> dict[str, Callable[[], SceneOptimizer]]:
    """Name -> builder."""
    import torch

    from learn2splat.config import build, compose
    from learn2splat.eval.methods import PIXEL_MEANS_RATE
    from learn2splat.optim.adafactor import Adafactor
    from learn2splat.optim.adam import Adam
    from learn2splat.optim.adam_visible import AdamVisible
    from learn2splat.optim.adamw_gs import AdamWGS
    from learn2splat.optim.muon import Muon
    from learn2splat.optim.rates import GroupRates, PowerDecay, Schedule
    from learn2splat.optim.sgd import Sgd
    from learn2splat.optim.soap import Soap
    from learn2splat.optim.torch_bridge import TorchOptimizer

    def named(name: str) -> SceneOptimizer:
        optimizer: SceneOptimizer = build(compose("optimize", [f"optimizer={name}"]).optimizer)
        return optimizer

    def decaying(opacity: float, scale: float) -> SceneOptimizer:
        adam = named("adam-visible-tuned")
        assert isinstance(adam, AdamVisible)
        return AdamWGS(adam, opacity, scale)

    def tuned_soap() -> SceneOptimizer:
        adam = named("adam-tuned")
        assert isinstance(adam, Adam)
        return Soap(adam)

    def bridged(name: str, schedule: Schedule) -> SceneOptimizer:
        return TorchOptimizer(getattr(torch.optim, name), GroupRates(), schedule)

    rates = GroupRates(means=PIXEL_MEANS_RATE, means_unit="footprint")
    found: dict[str, Callable[[], SceneOptimizer]] = {}
    for times in MULTIPLIERS:
        schedule = PowerDecay(scale=times, warm=28.0, power=0.54)
        found |= {
            f"adam x{times}": partial(Adam, rates, schedule),
            f"adam-visible x{times}": partial(AdamVisible, rates, schedule),
            f"adafactor x{times}": partial(Adafactor, rates, schedule),
            **{f"{name} x{times}": partial(bridged, name, schedule) for name in TORCH},
            f"sgd x{times}": partial(Sgd, GroupRates(**SGD_RATES), schedule),
            f"muon x{times}": partial(Muon, rates, schedule),
            f"muon x{times} momentum 0.9": partial(Muon, rates, schedule, 0.9),
            f"soap x{times}": lambda schedule=schedule: Soap(Adam(rates, schedule)),  # type: ignore[misc]
        }
    found |= {name: partial(named, name) for name in ("adam-tuned", "adam-visible-tuned")}
    found["soap adam-tuned"] = tuned_soap
    for opacity, scale in product(OPACITY_DECAYS, SCALE_DECAYS):
        found[f"adamw-gs opacity {opacity} scale {scale}"] = partial(decaying, opacity, scale)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--rows", type=Path, default=Path("tuning.sqlite"))
    parser.add_argument("--only", default="", help="beginnings of names, e.g. sgd,RMSprop (all candidates)")
    arguments = parser.parse_args()

    from learn2splat.eval.protocol import Budgets, Method, run_task
    from learn2splat.eval.statistics import per_scene
    from learn2splat.eval.store import RowStore
    from learn2splat.eval.task import Task
    from learn2splat.render.auto import auto_renderer

    wanted = tuple(arguments.only.split(","))
    methods = [Method(name, build, name) for name, build in candidates().items() if name.startswith(wanted)]
    store, renderer = RowStore(arguments.rows), auto_renderer()
    scenes = [str(arguments.captures / "banana")]
    scenes += [f"procedural:seed={seed},views=20,width=128" for seed in PROCEDURAL_SEEDS]
    for scene in scenes:
        run_task(Task(scene), methods, Budgets(steps=STEPS), store, renderer)
    rows = store.rows()
    print("| method | mean | " + " | ".join(map(str, STEPS)) + " |\n|" + "---|" * (len(STEPS) + 2))
    for method in methods:
        found = [per_scene(rows, method.name, "steps", step).values() for step in STEPS]
        means = [sum(values) / len(values) for values in found]
        failed = any(row.outcome != "ok" for row in rows if row.method == method.name)
        cells = " | ".join(f"{value:.2f}" for value in [sum(means) / len(means), *means])
        print(f"| {method.name}{' (failed)' if failed else ''} | {cells} |")


if __name__ == "__main__":
    main()
