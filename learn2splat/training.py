"""Meta-training from its configuration: scenes, trainer, validation by full rollouts, the finished optimizer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from learn2splat import __version__
from learn2splat.config import build
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.errors import UserError
from learn2splat.eval.protocol import Budgets, Method, Task, run_task
from learn2splat.eval.statistics import per_scene
from learn2splat.eval.store import RowStore
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.pretrained import load_pretrained, save_pretrained
from learn2splat.render.base import Renderer


class Scenes(Sequence[SceneData]):
    """Captures and procedural scenes, loaded when first asked for.

    Args:
        names: what `load_scene` understands.
        max_size: long side of the photos in pixels.
    """

    def __init__(self, names: Sequence[str], max_size: int) -> None:
        if not names:
            raise UserError("no scenes to train on: give data.procedural or data.captures")
        self.names = list(names)
        self._load = lru_cache(maxsize=None)(lambda name: load_scene(name, max_size=max_size, test_every=0))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return self._load(self.names[index])

    def __iter__(self) -> Iterator[SceneData]:
        return map(self._load, self.names)


def scene_names(data: DictConfig) -> list[str]:
    """The captures and procedural scenes that a configuration lists."""
    first, count = int(data.first_seed), int(data.procedural)
    made = [f"procedural:seed={first + i},views={data.views},width={data.width}{data.spec}" for i in range(count)]
    return [str(Path(capture).expanduser()) for capture in data.captures] + made


def validation(config: DictConfig, renderer: Renderer, device: str = "cpu") -> Callable[[SceneOptimizer], float]:
    """A score: held-out PSNR of full rollouts, averaged over scenes and over log-spaced steps, in dB."""
    budgets = Budgets(steps=tuple(config.steps))
    names = scene_names(config)
    tasks = [
        Task(
            name, max_size=config.max_size, max_gaussians=config.max_gaussians, sh_degree=config.sh_degree, views=views
        )
        for name in names
        for views in config.settings
    ]
    loaded: dict[str, SceneData] = {}

    def score(optimizer: SceneOptimizer) -> float:
        store = RowStore(":memory:")
        for task in tasks:
            if task.scene not in loaded:
                loaded[task.scene] = load_scene(task.scene, max_size=task.max_size, test_every=task.test_every)
            method = Method("candidate", lambda: optimizer, "")
            run_task(task, [method], budgets, store, renderer, loaded[task.scene], device)
        rows = store.rows()
        found = [per_scene(rows, "candidate", "steps", step).values() for step in budgets.steps]
        return sum(sum(values) / len(values) for values in found) / len(found)

    return score


def meta_train(
    config: DictConfig, *, stop: Callable[[], bool], listen: Callable[[Mapping[str, float]], None]
) -> Path | None:
    """Train what ``config`` describes; the folder of the finished optimizer, or None when it was stopped before.

    Args:
        config: as composed from ``configs/meta_train.yaml``.
        stop: asked before each meta-step.
        listen: hears of each meta-step.
    """
    device = str(config.device)
    rank = _join_processes(device)
    folder = Path(config.out)
    renderer = build(config.renderer)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)  # initial weights
        optimizer = build(config.trainee)
    if config.rule is not None:
        optimizer.rule.load_state_dict(load_pretrained(str(config.rule)).state_dict())
    trainer = MetaTrainer(
        optimizer,
        build(config.objective),
        renderer,
        Scenes(scene_names(config.data), config.data.max_size),
        build(config.train),
        folder,
        validation(config.validation, renderer, device),
        device,
    )
    if trainer.progress.meta_step == 0 and rank == 0:
        base = trainer.validate(trainer.averaged)
        listen({"meta_step": 0, "score": base})
        trainer.progress.best_score = base
        trainer.progress.history.append({"meta_step": 0, "score": base})
    best = trainer.run(stop=stop, listen=listen)
    if trainer.progress.meta_step < trainer.settings.meta_steps:
        return None
    finished = folder / "optimizer"
    if rank > 0:
        return finished
    about = {
        "command": ["l2s", *sys.argv[1:]],
        "version": __version__,
        "config": OmegaConf.to_container(config, resolve=True),
        "best_score": trainer.progress.best_score,
        "base_score": trainer.progress.history[0].get("score"),
        "history": [row for row in trainer.progress.history if "score" in row],
    }
    architecture = OmegaConf.to_container(config.trainee, resolve=True)
    assert isinstance(architecture, dict)
    save_pretrained(best, architecture, finished, about)  # type: ignore[arg-type]
    return finished


def _join_processes(device: str) -> int:
    """Join the group that ``torchrun`` started, if any; the rank of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return torch.distributed.get_rank()
