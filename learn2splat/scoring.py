"""The score that chooses among weights: held-out PSNR of full rollouts, over scenes and log-spaced steps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from learn2splat.config import build
from learn2splat.eval.protocol import Budgets, Method, run_task
from learn2splat.eval.store import RowStore
from learn2splat.eval.task import Task
from learn2splat.eval.workers import kept_scene, processes
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
        workers: processes that share the tasks; 1 works in this one.
    """

    def __init__(self, config: DictConfig, renderer: DictConfig, workers: int = 1) -> None:
        base = Task("", max_size=config.max_size, max_gaussians=config.max_gaussians, sh_degree=config.sh_degree)
        self.tasks = [
            replace(base, scene=name, views=views) for name in scene_names(config) for views in config.settings
        ]
        self.steps, self.renderer, self.workers = tuple(config.steps), renderer, workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, optimizer: SceneOptimizer) -> float:
        jobs = [(optimizer, task, self.steps, self.renderer) for task in self.tasks]
        found = [_run(*job) for job in jobs] if self.workers == 1 else list(self._processes().map(_unpacked, jobs))
        return sum(found) / len(found)

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = processes(self.workers)
        return self._pool


def _unpacked(job: Sequence[Any]) -> float:
    return _run(*job)


def _run(optimizer: SceneOptimizer, task: Task, steps: tuple[int, ...], renderer: DictConfig) -> float:
    """Mean PSNR of one run over ``steps``."""
    store = RowStore(":memory:")
    data = kept_scene(task.scene, task.max_size, task.test_every)
    run_task(task, [Method("candidate", lambda: optimizer, "")], Budgets(steps), store, build(renderer), data)
    rows = store.rows()
    return sum(row.psnr for row in rows) / len(rows)
