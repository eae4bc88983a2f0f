"""How `configs/optimizer/adam-tuned.yaml` was chosen: coordinate search over Adam's settings on training scenes.

The score is held-out PSNR, averaged over scenes and over the steps of EVAL_AT (so that early and late count alike).
Scenes: `banana` and `brighton_beach` (when present) and procedural scenes; nothing else is ever looked at.

    python scripts/tune_adam.py --captures ../shared/scenes --log tuning.jsonl

The search is resumed from its log: settings that were tried already are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

START: dict[str, Any] = {
    "scale": 40.0,
    "warm": 20.0,
    "power": 0.5,
    "damping": 0.17,
    "means_unit": "footprint",
    "means": 0.011,
    "log_scales": 5e-3,
    "quats": 1e-3,
    "logit_opacities": 3e-2,
    "sh0": 2.5e-3,
    "shN": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
}
"""Where the search begins: a decaying multiple of gsplat's rates with Nesterov-like damping."""
SCHEDULE = ("scale", "warm", "power")
OPTIMIZER = ("damping", "beta1", "beta2")
STEPS = 1000
EVAL_AT = (20, 50, 100, 200, 500, 1000)
PROCEDURAL_SEEDS = (101, 102, 103, 104)


def scenes(captures: Path) -> list[str]:
    """Training scenes only."""
    real = [str(captures / name) for name in ("banana", "brighton_beach") if (captures / name).is_dir()]
    return real + [f"procedural:seed={seed},views=20,width=128" for seed in PROCEDURAL_SEEDS]


def score_one(job: tuple[str, dict[str, Any]]) -> list[float]:
    """Held-out PSNR at each of EVAL_AT; 0 dB after a failure."""
    import torch

    torch.set_num_threads(1)
    from learn2splat.api import optimize
    from learn2splat.optim.adam import Adam
    from learn2splat.optim.rates import GroupRates, PowerDecay

    scene, settings = job
    rates = {key: value for key, value in settings.items() if key not in (*SCHEDULE, *OPTIMIZER)}
    optimizer = Adam(
        GroupRates(**rates),
        PowerDecay(**{key: settings[key] for key in SCHEDULE}),
        **{key: settings[key] for key in OPTIMIZER},
    )
    result = optimize(
        scene, optimizer=optimizer, steps=STEPS, eval_at=list(EVAL_AT), max_size=128, max_gaussians=2000, guard="off"
    )
    found = {row["step"]: row["psnr"] for row in result.metrics}
    return [found.get(step, 0.0) for step in EVAL_AT]


def moves(factor: float) -> Iterator[tuple[str, Callable[[float], float]]]:
    """Changes of one setting each: (name, new value from the old)."""
    for key in ("scale", "means", "logit_opacities", "shN", "damping", "log_scales", "sh0", "quats", "warm"):
        yield key, lambda value: value * factor
        yield key, lambda value: value / factor
    yield "power", lambda value: round(value + 0.1 * (factor - 1), 3)
    yield "power", lambda value: round(value - 0.1 * (factor - 1), 3)
    for beta2 in (0.98, 0.99, 0.999):
        yield "beta2", lambda value, beta2=beta2: beta2  # type: ignore[misc]
    for beta1 in (0.8, 0.9, 0.95):
        yield "beta1", lambda value, beta1=beta1: beta1  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--log", type=Path, default=Path("tuning.jsonl"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    names = scenes(arguments.captures)
    tried: dict[str, float] = {}
    if arguments.log.exists():
        for line in arguments.log.read_text().splitlines():
            row = json.loads(line)
            tried[json.dumps(row["settings"], sort_keys=True)] = row["score"]

    with ProcessPoolExecutor(arguments.workers) as pool:

        def score(settings: dict[str, Any]) -> float:
            key = json.dumps(settings, sort_keys=True)
            if key not in tried:
                curves = list(pool.map(score_one, [(name, settings) for name in names]))
                tried[key] = sum(map(sum, curves)) / (len(curves) * len(EVAL_AT))
                with arguments.log.open("a") as log:
                    log.write(json.dumps({"score": tried[key], "settings": settings, "curves": curves}) + "\n")
                print(f"{tried[key]:.3f} dB  {settings}", flush=True)
            return tried[key]

        best = dict(START)
        gsplat_unit = START | {"means_unit": "extent", "means": 1.6e-4}
        best = max((best, gsplat_unit), key=score)
        for factor in (2.0, 1.4):
            for key, change in moves(factor):
                candidate = best | {key: change(best[key])}
                if score(candidate) > score(best):
                    best = candidate
        print("best:", json.dumps(best, indent=1), f"{score(best):.3f} dB")


if __name__ == "__main__":
    main()
