"""How the score of a rollout answers to perturbed weights: what evolution sees at different sizes of perturbation.

    python scripts/perturbations.py --tasks 10 --sigmas 0.003,0.3,1

For each task one random direction; `odd` is half the difference of the scores on both sides, the signal of evolution;
`even` is the mean of both minus the score without perturbation: by how much perturbing alone lowers the score. At the
smallest size the odd part is chaos: rollouts that separate from rounding errors.
"""

from __future__ import annotations

import argparse

import torch

from learn2splat.config import build, compose
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.evolution import Evolution, shifted
from learn2splat.render.auto import auto_renderer
from learn2splat.scoring import scene_names
from learn2splat.training import Scenes, shares

STEPS = (100, 300, 600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--sigmas", default="0.003,0.3,1")
    parser.add_argument("overrides", nargs="*", help="of configs/meta_train.yaml, experiment=rule included")
    arguments = parser.parse_args()
    config = compose("meta_train", ["experiment=rule", "data.procedural=6", *arguments.overrides])
    sigmas = [float(sigma) for sigma in arguments.sigmas.split(",")]
    scenes = Scenes(scene_names(config.data), config.data.max_size)
    evolution = Evolution(TaskSource(scenes, build(config.ranges), shares(config.data)), auto_renderer())
    optimizer = build(config.trainee).eval()
    generator = torch.Generator().manual_seed(3)
    print(f"| views | Gaussians | steps | dB |{''.join(f' odd, even at {sigma:g} |' for sigma in sigmas)}")
    print("|---" * (4 + len(sigmas)) + "|")
    squares, evens = [0.0] * len(sigmas), [0.0] * len(sigmas)
    for index in range(arguments.tasks):
        task, steps = evolution.tasks.draw(generator), STEPS[index % len(STEPS)]
        directions = optimizer.coarse(len(task.data.train))
        shift = torch.randn(len(directions), generator=generator)
        plain, _ = evolution.score(optimizer, task, steps)
        cells = ""
        for column, sigma in enumerate(sigmas):
            up, down = (
                evolution.score(shifted(optimizer, directions, (sign * sigma * shift).tolist()), task, steps)[0]
                for sign in (1, -1)
            )
            odd, even = (up - down) / 2, (up + down) / 2 - plain
            squares[column] += odd**2 / arguments.tasks
            evens[column] += even / arguments.tasks
            cells += f" {odd:+.2f}, {even:+.2f} |"
        print(f"| {len(task.data.train)} | {len(task.initial.means)} | {steps} | {plain:.2f} |{cells}", flush=True)
    summary = "".join(f" {s**0.5:.2f}, {e:+.2f} |" for s, e in zip(squares, evens, strict=True))
    print(f"| root mean square of odd, mean of even | | | |{summary}")


if __name__ == "__main__":
    main()
