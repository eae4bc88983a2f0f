"""Cost of the feed-forward initialiser and of an iteration of the recurrent updater, by part, views and pixels.

A prediction, and an iteration with its renderings of all views, on noise as photos; the weights are untrained. Times
are CPU time of one thread, minimum over repetitions; ratios are to a step of Adam from the same Gaussians, on 4 views,
in the same run. Usage: ``python benchmarks/predict.py [--width 48 --planes 32 ...] [--json out.json]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rasterizer import orbit
from torch import nn

from learn2splat.cameras import Cameras
from learn2splat.config import build, compose
from learn2splat.data.base import SceneData
from learn2splat.data.resize import PhotoStack
from learn2splat.data.views import RandomViews
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.predict.base import Prediction
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.predict.sweep import log_depths, matching_cost
from learn2splat.render.base import GradientRequest
from learn2splat.render.cpu import CpuRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene_loss import SceneLoss

CASES = ((2, 64), (4, 64), (8, 64), (16, 64), (8, 128), (8, 256))
"""(views, pixels along the side)."""
BATCH = 4


class Parts:
    """CPU seconds within some modules, by name."""

    def __init__(self, **modules: nn.Module) -> None:
        self.seconds = dict.fromkeys(modules, 0.0)
        self.begun: dict[str, float] = {}
        for name, module in modules.items():
            for one in module if isinstance(module, nn.ModuleList) else [module]:
                one.register_forward_pre_hook(lambda *_, name=name: self.begun.update({name: time.process_time()}))
                one.register_forward_hook(lambda *_, name=name: self._add(name))

    def _add(self, name: str) -> None:
        self.seconds[name] += time.process_time() - self.begun[name]

    def of(self, call: Callable[[], object], repeats: int) -> dict[str, float]:
        """Seconds of ``call`` in all, and of its parts, in the quickest of ``repeats``."""
        runs = []
        for _ in range(repeats):
            self.seconds = dict.fromkeys(self.seconds, 0.0)
            begin = time.process_time()
            call()
            runs.append({"all": time.process_time() - begin} | self.seconds)
        return min(runs, key=lambda run: run["all"])


def rollout(data: SceneData, start: Prediction, optimizer: SceneOptimizer) -> Rollout:
    loss = SceneLoss(data, CpuRenderer(), PhotometricLoss())
    sampler = RandomViews(data.cameras, list(data.train), BATCH, seed=0)
    return Rollout(loss, data.train, optimizer, sampler, RolloutState.start(start.scene, optimizer), 100)


@torch.no_grad()
def measure(net: CompactInitialiser, updater: RecurrentUpdater, views: int, side: int, repeats: int) -> dict[str, Any]:
    """Seconds of a prediction, of an iteration and of a step of Adam."""
    photos = torch.randint(0, 256, (views, side, side, 3), generator=torch.Generator().manual_seed(0)).byte()
    cameras: Cameras = orbit(views, side, side)
    names = [str(view) for view in range(views)]
    data = SceneData("noise", cameras, PhotoStack(tuple(photos)), names, None, list(range(views)), [])
    images, maps = photos.float() / 255, net.pyramid(photos.permute(0, 3, 1, 2).float() / 255)
    depths = log_depths(cameras, net.planes)
    start = net(images, cameras)
    parts = Parts(
        pyramid=net.pyramid, across=net.across, depth=net.depth, tokens=net.tokens, knn=net.local, views=net.wide
    )
    iteration = rollout(data, start, updater)
    loss, request = iteration.scene_loss, None if updater.descent is None else GradientRequest()
    adam = rollout(data, start, build(compose("optimize", ["optimizer=adam"]).optimizer))
    found = {
        "prediction": parts.of(lambda: net(images, cameras), repeats),
        "sweep": Parts().of(lambda: matching_cost(maps, cameras, depths, net.groups), repeats),
        "iteration": Parts(pyramid=updater.pyramid, across=updater.across, knn=updater.blocks, head=updater.head).of(
            iteration.step, repeats
        ),
        "renderings": Parts().of(lambda: loss.rendered(start.scene, data.train, request=request), repeats),
        "adam": Parts().of(adam.step, repeats),
    }
    return {"views": views, "side": side, "gaussians": len(start.scene), "seconds": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--planes", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--updater-blocks", type=int, default=2)
    parser.add_argument("--gradients", action="store_true", help="the updater reads them, too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for views, side in CASES:
        net = CompactInitialiser(arguments.width, arguments.planes, neighbours=8, blocks=arguments.blocks).eval()
        updater = RecurrentUpdater(arguments.width, arguments.updater_blocks, arguments.gradients).eval()
        results.append(measure(net, updater, views, side, arguments.repeats))
        seconds, cells = results[-1]["seconds"], []
        step = seconds["adam"]["all"]
        for name in ("prediction", "sweep", "iteration", "renderings"):
            inner = ", ".join(f"{part} {t / step:.1f}" for part, t in seconds[name].items() if part != "all")
            cells.append(f"{name} {seconds[name]['all'] / step:.1f}" + (f" ({inner})" if inner else ""))
        print(
            f"{views:>2} views of {side}, {results[-1]['gaussians']:>6} Gaussians, in steps of Adam "
            f"({1e3 * step:.1f} ms): {'; '.join(cells)}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
