"""What an optimizer's update costs without rendering, by the number of Gaussians, against Adam in the same run.

    python benchmarks/update.py --optimizers adam,adam-tuned,l2s --counts 500,2000,10000,30000,100000

CPU time of one thread, median; random Gaussians of SH degree 3 and random gradients, half of the Gaussians drawn.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from learn2splat.eval.methods import method
from learn2splat.optim.base import SceneOptimizer, StepContext
from learn2splat.scene.gaussians import GaussianScene

NUMBERS = 300_000
"""Gaussians updated in all, for each number of them."""


def scene(count: int, seed: int) -> GaussianScene:
    """Standard normal numbers."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((count, 3), (count, 3), (count, 4), (count,), (count, 16, 3))
    return GaussianScene(*(torch.randn(shape, generator=draw) for shape in shapes))


def milliseconds(optimizer: SceneOptimizer, count: int) -> float:
    """Median CPU time of an update."""
    start, grads, seen = scene(count, 0), scene(count, 1), torch.arange(count) % 2 == 0
    footprint = torch.full((count,), 0.01)
    context = StepContext(5, None, 1, 20, 1.0, seen, 0.1, pixel_footprint_world=footprint, photo_side_px=1600)
    state, taken = optimizer.init(start), []
    for _ in range(3 + max(8, NUMBERS // count)):
        before = time.process_time()
        _, state = optimizer.update(grads, state, start, context)
        taken.append(1e3 * (time.process_time() - before))
    return median(taken[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", default="adam,adam-tuned,l2s")
    parser.add_argument("--counts", default="500,2000,10000,30000,100000")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for count in map(int, arguments.counts.split(",")):
        found = {name: milliseconds(method(name).build(), count) for name in arguments.optimizers.split(",")}
        first = next(iter(found.values()))
        cells = ", ".join(f"{name} {ms:.3f} ms ({ms / first:.2f}x)" for name, ms in found.items())
        print(f"{count:>8,} Gaussians: {cells}", flush=True)


if __name__ == "__main__":
    main()
