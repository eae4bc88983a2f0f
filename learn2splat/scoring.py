"""The score that chooses among weights: held-out PSNR of full rollouts, over scenes and log-spaced steps."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from learn2splat.config import build
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.eval.protocol import Budgets, Method, Task, run_task
from learn2splat.eval.store import RowStore
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
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, initializer=_one_thread)
        return self._pool


def _one_thread() -> None:
    torch.set_num_threads(1)


def _unpacked(job: Sequence[Any]) -> float:
    return _run(*job)


@lru_cache(maxsize=64)
def _scene(name: str, max_size: int, test_every: int) -> SceneData:
    return load_scene(name, max_size=max_size, test_every=test_every)


def _run(optimizer: SceneOptimizer, task: Task, steps: tuple[int, ...], renderer: DictConfig) -> float:
    """Mean PSNR of one run over ``steps``."""
    store = RowStore(":memory:")
    data = _scene(task.scene, task.max_size, task.test_every)
    run_task(task, [Method("candidate", lambda: optimizer, "")], Budgets(steps), store, build(renderer), data)
    rows = store.rows()
    return sum(row.psnr for row in rows) / len(rows)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
