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
from learn2splat.meta.search import search
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.learned.pretrained import load_pretrained, save_pretrained
from learn2splat.scoring import Score, cores, scene_names


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


def shares(data: DictConfig) -> list[float]:
    """How often each of `scene_names` is drawn: captures ``share_captures`` of the time in all, when there are any."""
    captures, made = len(data.captures), int(data.procedural)
    if not captures or not made:
        return [1.0] * (captures + made)
    return [data.share_captures / captures] * captures + [(1 - data.share_captures) / made] * made


def meta_train(
    config: DictConfig, *, stop: Callable[[], bool], listen: Callable[[Mapping[str, Any]], None]
) -> Path | None:
    """Train what ``config`` describes; the folder of the finished optimizer, or None when it was stopped before.

    Args:
        config: as composed from ``configs/meta_train.yaml``.
        stop: asked before each meta-step.
        listen: hears of each meta-step.
    """
    rank = _join_processes(str(config.device))
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
        Score(config.validation, config.renderer),
        shares(config.data),
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
    found = search(
        best,  # type: ignore[arg-type]
        Score(config.search, config.renderer, cores()),
        config.search.evaluations,
        folder / "search",
        stop=stop,
        listen=listen,
    )
    if found is None:
        return None
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
    save_pretrained(found, architecture, finished, about)  # type: ignore[arg-type]
    return finished


def _join_processes(device: str) -> int:
    """Join the group that ``torchrun`` started, if any; the rank of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    return torch.distributed.get_rank()
