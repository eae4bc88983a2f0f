"""How good the gradient of MetaGrad is: what refinement keeps of a change, noise, and over-fitting of single tasks.

    python benchmarks/foresight.py --inner adam-tuned --tasks 12

- kept: each group of parameters of the predicted Gaussians is moved along its gradient; the change of the loss at the
  anchors, over what the gradient says. 1 where the Jacobian of the refinement is the identity, as MetaGrad assumes.
- noise: number of tasks whose mean gradient by the head's weights is as much noise as signal (McCandlish et al. 2018),
  and the cosine between the mean gradients of MetaGrad and of plain training.
- single tasks: the head is trained on one task alone, judged on the very views that train it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from learn2splat.config import build, compose
from learn2splat.data.base import SceneData
from learn2splat.meta.contexts import refinement
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.foresight import Anchors, ForesightEstimator
from learn2splat.meta.learner import roll_out
from learn2splat.meta.life import begin
from learn2splat.optim.base import SceneOptimizer, zeros_like
from learn2splat.optim.learned.pretrained import load_pretrained
from learn2splat.predict.views import predicted
from learn2splat.render.base import Renderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.training import Scenes, scene_names

MARKS = (0, 10, 20, 50, 100, 200)
ROOT_MEAN_SQUARE = {"means": 2e-3, "log_scales": 2e-2, "quats": 2e-2, "logit_opacities": 5e-2, "sh": 1e-2}
"""Size of the changes; that of the means is in units of the camera rig."""


class Same:
    """One task, whatever is drawn."""

    def draw(self, scene: SceneData, generator: torch.Generator) -> SceneData:
        return scene


class Bench:
    """What all three share."""

    def __init__(self, inner: SceneOptimizer, renderer: Renderer, steps: int, stride: int, horizon: int) -> None:
        self.inner, self.renderer, self.steps, self.stride, self.horizon = inner, renderer, steps, stride, horizon

    def anchors(self, data: SceneData, scene: GaussianScene) -> tuple[float, GaussianScene]:
        """Mean loss and gradient at the anchors of a refinement of ``scene``."""
        life = begin(refinement(data, scene, 0), self.inner, self.renderer, self.steps, horizon=self.horizon)
        judged = Anchors(self.stride)(life, self.steps)
        assert judged is not None
        return judged

    def estimator(self, data: SceneData, now: float) -> ForesightEstimator:
        steps, source = (self.steps, self.steps), TaskSource([data], Same())
        return ForesightEstimator(source, self.renderer, self.inner, Anchors(self.stride), steps, self.horizon, now)

    def curve(self, data: SceneData, initialiser: torch.nn.Module) -> Tensor:
        """PSNR at `MARKS`."""
        task, found = refinement(data, predicted(data, data.train, initialiser).scene, 0), []  # type: ignore[arg-type]
        life = begin(task, self.inner, self.renderer, MARKS[-1], horizon=self.horizon)
        for mark in MARKS:
            roll_out(life, mark - life.step)
            found.append(life.rollout.scene_loss.psnr(life.rollout.state.output, life.held))
        return torch.tensor(found)


def kept(bench: Bench, tasks: list[SceneData], initialiser: torch.nn.Module) -> Iterator[str]:
    """Per group, the sums over tasks of what is found and of what is foretold."""
    totals = {name: torch.zeros(2) for name in ROOT_MEAN_SQUARE}
    for data in tasks:
        scene = predicted(data, data.train, initialiser).scene  # type: ignore[arg-type]
        _, gradient = bench.anchors(data, scene)
        extent = data.cameras.take(list(data.train)).extent_world or 1.0
        for name, total in totals.items():
            slope = getattr(gradient, name)
            size = ROOT_MEAN_SQUARE[name] * (extent if name == "means" else 1.0)
            move = replace(zeros_like(scene), **{name: size * slope.sign()})
            ahead, behind = (bench.anchors(data, scene.map(way, move))[0] for way in (torch.add, torch.sub))
            total += torch.tensor([(ahead - behind) / 2, float((getattr(move, name) * slope).sum())])
    for name, (found, foretold) in totals.items():
        yield f"| {name} | {foretold / len(tasks):.5f} | {found / len(tasks):.5f} | {found / foretold:.2f} |"


def gradients(bench: Bench, tasks: list[SceneData], initialiser: torch.nn.Module, now: float) -> Tensor:
    """[tasks, weights of the head]"""
    rows, net = [], copy.deepcopy(initialiser)
    for data in tasks:
        net.zero_grad()
        bench.estimator(data, now).accumulate(net, 1, 0.0, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        rows.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    return torch.stack(rows)


def noise(rows: Tensor) -> float:
    """Trace of the covariance over the squared mean, both without bias; infinite where no mean is to be seen."""
    spread = float(rows.var(dim=0).sum())
    signal = float(rows.mean(dim=0).square().sum()) - spread / len(rows)
    return spread / signal if signal > 0 else float("inf")


def single(bench: Bench, data: SceneData, initialiser: torch.nn.Module, now: float, steps: int, lr: float) -> Tensor:
    """The curve of a head that was trained on ``data`` alone."""
    net, generator = copy.deepcopy(initialiser), torch.Generator().manual_seed(0)
    adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        bench.estimator(data, now).accumulate(net, 1, 0.0, generator)  # type: ignore[arg-type]
        adam.step()
    return bench.curve(data, net)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inner", default="adam-tuned")
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--single", type=int, default=4, help="tasks that a head is trained on alone")
    parser.add_argument("--single-steps", type=int, default=100)
    parser.add_argument("--single-lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("overrides", nargs="*", help="of configs/meta_train.yaml")
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    given = ["experiment=foresight", f"optimizer@inner={arguments.inner}", f"data.procedural={arguments.tasks}"]
    config = compose("meta_train", [*given, *arguments.overrides])
    initialiser = load_pretrained(config.start, "initialiser")
    for name, parameter in initialiser.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    bench = Bench(
        build(config.inner), build(config.renderer), arguments.steps, arguments.stride, horizon=config.horizon
    )
    ranges = build(config.ranges)
    drawn = enumerate(Scenes(scene_names(config.data), config.data.max_size))
    tasks = [ranges.draw(scene, torch.Generator().manual_seed(number)) for number, scene in drawn]
    print(
        "| group | foretold | found | kept |\n|---|---|---|---|", *kept(bench, tasks, initialiser), sep="\n", flush=True
    )
    plain, later = (gradients(bench, tasks, initialiser, now) for now in (1.0, 0.0))
    alike = float(cosine_similarity(plain.mean(dim=0), later.mean(dim=0), dim=0))
    print(
        f"noise: plain {noise(plain):.1f} tasks, MetaGrad {noise(later):.1f}; cosine of the means {alike:.2f}",
        flush=True,
    )
    curves = {
        label: [
            bench.curve(data, initialiser)
            if now is None
            else single(bench, data, initialiser, now, arguments.single_steps, arguments.single_lr)
            for data in tasks[: arguments.single]
        ]
        for label, now in (("start", None), ("plain", 1.0), ("MetaGrad", 0.0))
    }
    print(f"| single tasks | {' | '.join(str(mark) for mark in MARKS)} |\n|---|" + "---|" * len(MARKS))
    for label, found in curves.items():
        print(f"| {label} | {' | '.join(f'{psnr:.2f}' for psnr in torch.stack(found).mean(dim=0).tolist())} |")


if __name__ == "__main__":
    main()
