"""The score that chooses among weights: held-out PSNR of full rollouts, over scenes and log-spaced steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from learn2splat.config import build
from learn2splat.eval.protocol import Budgets, Method, run_task
from learn2splat.eval.store import RowStore
from learn2splat.eval.task import Task
from learn2splat.eval.workers import kept_scene
from learn2splat.optim.base import SceneOptimizer


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
