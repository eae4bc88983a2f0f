"""Cost of a whole optimisation step per optimizer, as a ratio to Adam in the same run, and how it grows.

A step is render, L1 + SSIM, gradients, update and averaging, at 256 x 256 with SH 3; the neighbours' and footprints'
renewal is included at its share. Times are CPU time of one thread, minimum over repetitions, optimizers in turn; memory
is the peak of the process, which holds the runs of all optimizers. Usage:

    python benchmarks/step.py [--optimizers adam,adam-tuned,...] [--trainees learned-rule] [--json out.json]
    python benchmarks/step.py --counts 30000,100000,300000,1000000 --batches 1 --size 128 --optimizers adam,l2s \
        --trainees "" --repeats 1      # whether the cost is linear in the number of Gaussians; about 8 GB
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
from learn2splat.estimate import step_bytes
from learn2splat.losses import PhotometricLoss
from learn2splat.memory import peak_memory_mb
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.rollout import GEOMETRY_EVERY, Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss

VIEWS = 8
WARM_STEPS, BLOCK_STEPS = 16, 8  # networks run more often in the first steps, and every few steps later


def capture(size: int) -> SceneData:
    """Noise as photos: their content does not matter here."""
    generator = torch.Generator().manual_seed(0)
    photos = [torch.randint(0, 256, (size, size, 3), generator=generator).byte() for _ in range(VIEWS)]
    names = [f"{view}" for view in range(VIEWS)]
    return SceneData("noise", orbit(VIEWS, size, size), PhotoStack(tuple(photos)), names, None, list(range(VIEWS)), [])


def rollout(optimizer: SceneOptimizer, scene: GaussianScene, batch: int, size: int) -> Rollout:
    data = capture(size)
    loss = SceneLoss(data, CpuRenderer(), PhotometricLoss())
    sampler = RandomViews(data.cameras, data.train, batch, seed=0)
    return Rollout(loss, data.train, optimizer, sampler, RolloutState.start(scene, optimizer), 100)


def step_times(runs: dict[str, Rollout], repeats: int) -> dict[str, float]:
    """Milliseconds of a step of each optimizer, the renewal of neighbours and footprints at its share."""
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
    parser.add_argument("--counts", default="5000,20000,100000", help="numbers of Gaussians, ascending")
    parser.add_argument("--batches", default="1,4", help="views per step")
    parser.add_argument("--size", type=int, default=256, help="sides of the views in pixels")
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
    for count in map(int, arguments.counts.split(",")):
        scene = synthetic_scene(count)
        for batch in map(int, arguments.batches.split(",")):
            runs = {name: rollout(one, scene, batch, arguments.size) for name, one in optimizers.items()}
            times, peak = step_times(runs, arguments.repeats), peak_memory_mb()
            kb = {name: step_bytes(run.state) / count / 1e3 for name, run in runs.items()}
            results.append({"gaussians": count, "views": batch, "ms": times, "kb": kb, "peak_memory_mb": peak})
            cells = [
                f"{name} {ms:.1f} ms ({ms / times['adam']:.2f}x, {1e3 * ms / count:.2f} us and {kb[name]:.1f} kB each)"
                for name, ms in times.items()
            ]
            print(f"{count:>7} Gaussians, {batch} views, {peak:,.0f} MiB: " + ", ".join(cells), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
