"""Cost of a whole optimisation step per optimizer, as a ratio to Adam in the same run, and how it grows.

A step is render, L1 + SSIM, gradients, update and averaging, at 256 x 256 with SH 3; the neighbours' and footprints'
renewal is included at its share. Times are CPU time of one thread, minimum over repetitions, optimizers in turn.
Usage: ``python benchmarks/step.py [--optimizers adam,adam-tuned,...] [--trainees learned-rule] [--json out.json]``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rasterizer import orbit, synthetic_scene

from learn2splat.config import build, compose
from learn2splat.data.base import SceneData
from learn2splat.data.resize import PhotoStack
from learn2splat.data.views import RandomViews
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.rollout import GEOMETRY_EVERY, Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene_loss import SceneLoss

SIZE, VIEWS = 256, 8
WARM_STEPS, BLOCK_STEPS = 16, 8  # networks run more often in the first steps, and every few steps later


def capture() -> SceneData:
    """Noise as photos: their content does not matter here."""
    generator = torch.Generator().manual_seed(0)
    photos = [torch.randint(0, 256, (SIZE, SIZE, 3), generator=generator).byte() for _ in range(VIEWS)]
    names = [f"{view}" for view in range(VIEWS)]
    return SceneData("noise", orbit(VIEWS, SIZE, SIZE), PhotoStack(tuple(photos)), names, None, list(range(VIEWS)), [])


def rollout(optimizer: SceneOptimizer, count: int, batch: int) -> Rollout:
    data = capture()
    loss = SceneLoss(data, CpuRenderer(), PhotometricLoss())
    sampler = RandomViews(data.cameras, data.train, batch, seed=0)
    return Rollout(loss, data.train, optimizer, sampler, RolloutState.start(synthetic_scene(count), optimizer), 100)


def step_times(optimizers: dict[str, SceneOptimizer], count: int, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step of each optimizer, the renewal of neighbours and footprints at its share."""
    runs = {name: rollout(optimizer, count, batch) for name, optimizer in optimizers.items()}
    with_renewal: dict[str, float] = {}
    for name, run in runs.items():
        begin = time.process_time()
        run.step()
        with_renewal[name] = time.process_time() - begin
        for _ in range(WARM_STEPS - 1):
            run.step()
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.process_time()
            for _ in range(BLOCK_STEPS):
                run.step()
            least[name] = min(least[name], (time.process_time() - begin) / BLOCK_STEPS)
    renewal = {name: max(0.0, with_renewal[name] - least[name]) / GEOMETRY_EVERY for name in runs}
    return {name: 1e3 * (least[name] + renewal[name]) for name in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", default="adam,adam-tuned,sgd,torch-nadam")
    parser.add_argument("--trainees", default="learned-rule,l2s-tiny")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optimizers = {
        name: build(compose("optimize", [f"optimizer={name}"]).optimizer) for name in arguments.optimizers.split(",")
    }
    for name in filter(None, arguments.trainees.split(",")):
        optimizers[name] = build(compose("meta_train", [f"trainee={name}"]).trainee).eval()
    results: list[dict[str, Any]] = []
    for count in (5_000, 20_000, 100_000):
        for batch in (1, 4):
            times = step_times(optimizers, count, batch, arguments.repeats)
            results.append({"gaussians": count, "views": batch, "ms": times})
            cells = [f"{name} {ms:.1f} ms ({ms / times['adam']:.2f}x)" for name, ms in times.items()]
            print(f"{count:>7} Gaussians, {batch} views: " + ", ".join(cells), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
