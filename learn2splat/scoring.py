"""The scores that choose among weights: held-out PSNR of rollouts, of predictions, of refinements, of precisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import DictConfig

from learn2splat.config import build
from learn2splat.data.base import SceneData
from learn2splat.eval.protocol import Budgets, Method, run_task
from learn2splat.eval.store import RowStore
from learn2splat.eval.task import Task
from learn2splat.eval.workers import kept_scene
from learn2splat.evidence import predicted_proximal
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.contexts import ContextRanges, PredictedTasks, refinement
from learn2splat.meta.estimator import Ranges
from learn2splat.meta.learner import roll_out
from learn2splat.meta.life import begin
from learn2splat.meta.tasks import Task as MetaTask
from learn2splat.optim.base import SceneOptimizer
from learn2splat.predict.base import Initialiser
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.predict.views import predicted
from learn2splat.scene_loss import SceneLoss


def scene_names(data: DictConfig) -> list[str]:
    """The captures and procedural scenes that a configuration lists."""
    first, count = int(data.first_seed), int(data.procedural)
    made = [f"procedural:seed={first + i},views={data.views},width={data.width}{data.spec}" for i in range(count)]
    return [str(Path(capture).expanduser()) for capture in data.captures] + made


class Score:
    """Mean held-out PSNR of an optimizer, in dB.

    Args:
        config: the scenes, and how they are optimised (see ``configs/meta_train.yaml``).
        renderer: configuration of the renderer.
        device: where to optimise.
    """

    def __init__(self, config: DictConfig, renderer: DictConfig, device: str = "cpu") -> None:
        base = Task("", max_size=config.max_size, max_gaussians=config.max_gaussians, sh_degree=config.sh_degree)
        self.tasks = [
            replace(base, scene=name, views=views) for name in scene_names(config) for views in config.settings
        ]
        self.steps, self.renderer, self.device = tuple(config.steps), build(renderer), device

    def __call__(self, optimizer: SceneOptimizer) -> float:
        return sum(self._run(optimizer, task) for task in self.tasks) / len(self.tasks)

    def _run(self, optimizer: SceneOptimizer, task: Task) -> float:
        """Mean PSNR of one run over ``steps``."""
        store, data = RowStore(":memory:"), kept_scene(task.scene, task.max_size, task.test_every)
        candidate = Method("candidate", lambda: optimizer, "")
        run_task(task, [candidate], Budgets(self.steps), store, self.renderer, data, self.device)
        rows = store.rows()
        return sum(row.psnr for row in rows) / len(rows)


class PredictionScore:
    """Mean PSNR in dB of an initialiser's predictions on views that it was not shown, each scene counting alike.

    Args:
        config, renderer, device: see `Score`.
        ranges: which views are shown, the same in every validation.
    """

    def __init__(self, ranges: ContextRanges, config: DictConfig, renderer: DictConfig, device: str = "cpu") -> None:
        self.ranges, self.config, self.renderer, self.device = ranges, config, build(renderer), device

    @cached_property
    def tasks(self) -> list[SceneData]:
        return [self.ranges.draw(scene, generator) for scene, generator in _scenes(self.config)]

    def __call__(self, initialiser: Initialiser) -> float:
        return sum(self._one(initialiser, data) for data in self.tasks) / len(self.tasks)

    def _one(self, initialiser: Initialiser, data: SceneData) -> float:
        loss = SceneLoss(data, self.renderer, PhotometricLoss(), device=self.device)
        with torch.no_grad():
            scene = initialiser(loss.photos(data.train), loss.cameras.take(list(data.train))).scene
        return loss.psnr(scene, data.test)


class ForesightScore(PredictionScore):
    """Mean PSNR in dB, on views that were not shown, of what an optimizer makes of predictions; scenes count alike.

    Args:
        config, renderer, device: see `Score`.
        ranges: see `PredictionScore`.
        inner: the optimizer.
        steps: ascending numbers of updates after which to look, 0 for the prediction itself.
        horizon: how many updates ``inner`` is told that there will be.
    """

    def __init__(
        self,
        ranges: ContextRanges,
        inner: SceneOptimizer,
        steps: Sequence[int],
        horizon: int,
        config: DictConfig,
        renderer: DictConfig,
        device: str = "cpu",
    ) -> None:
        super().__init__(ranges, config, renderer, device)
        self.inner, self.steps, self.horizon = inner, tuple(steps), horizon

    def _one(self, initialiser: Initialiser, data: SceneData) -> float:
        task = refinement(data, predicted(data, data.train, initialiser).scene, seed=0)
        life, total = begin(task, self.inner, self.renderer, self.steps[-1], self.device, self.horizon), 0.0
        for step in self.steps:
            roll_out(life, step - life.step)
            total += life.rollout.scene_loss.psnr(life.rollout.state.output, life.held)
        return total / len(self.steps)


class RefinementScore:
    """Mean held-out PSNR in dB after each of a few iterations from predicted scenes, each scene counting alike.

    Args:
        config, renderer, device: see `Score`.
        ranges: the tasks, the same in every validation.
        iterations: how many.
    """

    def __init__(
        self, ranges: PredictedTasks, iterations: int, config: DictConfig, renderer: DictConfig, device: str = "cpu"
    ) -> None:
        self.ranges, self.iterations, self.config = ranges, iterations, config
        self.renderer, self.device = build(renderer), device

    @cached_property
    def tasks(self) -> list[MetaTask]:
        return [self.ranges.draw(scene, generator) for scene, generator in _scenes(self.config)]

    def __call__(self, optimizer: SceneOptimizer) -> float:
        return sum(sum(self.curve(optimizer, task)[1:]) for task in self.tasks) / len(self.tasks) / self.iterations

    def curve(self, optimizer: SceneOptimizer, task: MetaTask) -> list[float]:
        """PSNR before the first iteration, and after each."""
        life = begin(task, optimizer, self.renderer, self.iterations, self.device)
        loss, scores = life.rollout.scene_loss, []
        with torch.no_grad():
            for _ in range(self.iterations):
                scores.append(loss.psnr(life.rollout.state.scene, life.held))
                life.rollout.step()
        return [*scores, loss.psnr(life.rollout.state.scene, life.held)]


class UncertaintyScore:
    """Mean held-out PSNR in dB over the steps of optimisations that predicted precisions hold back.

    Args:
        config, renderer, device: see `Score`.
        ranges: the tasks, the same in every validation.
        optimizer: configuration of the optimizer.
        steps: after which to evaluate; the last is the horizon.
    """

    def __init__(
        self,
        ranges: Ranges[MetaTask],
        optimizer: SceneOptimizer,
        steps: Sequence[int],
        config: DictConfig,
        renderer: DictConfig,
        device: str = "cpu",
    ) -> None:
        self.ranges, self.optimizer, self.steps, self.config = ranges, optimizer, tuple(steps), config
        self.renderer, self.device = build(renderer), device

    @cached_property
    def tasks(self) -> list[MetaTask]:
        return [self.ranges.draw(scene, generator) for scene, generator in _scenes(self.config)]

    def __call__(self, head: UncertaintyHead) -> float:
        curves = [self.curve(head, task) for task in self.tasks]
        return sum(sum(curve) for curve in curves) / len(curves) / len(self.steps)

    def curve(self, head: UncertaintyHead | None, task: MetaTask) -> list[float]:
        """PSNR of the output at ``steps``, without precisions when there is no head."""
        life = begin(task, self.optimizer, self.renderer, self.steps[-1], self.device)
        rollout, loss = life.rollout, life.rollout.scene_loss
        rollout.horizon = self.steps[-1]
        if head is not None:
            rollout.proximal = predicted_proximal(head, loss, rollout.state.scene, rollout.train)
        return [
            loss.psnr(rollout.state.output, life.held)
            for record in rollout.run(self.steps[-1])
            if record.step in self.steps
        ]


def _scenes(config: DictConfig) -> Iterator[tuple[SceneData, torch.Generator]]:
    """The scenes of a configuration, each with a generator of its own."""
    for number, name in enumerate(scene_names(config)):
        yield kept_scene(name, config.max_size, 0), torch.Generator().manual_seed(number)
