"""Meta-training from its configuration: scenes, trainer, validation, the finished optimizer or initialiser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from learn2splat import __version__
from learn2splat.config import build
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.errors import UserError
from learn2splat.files import shareable_paths, write_text
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.listener import Listeners, TrainingListener
from learn2splat.meta.progress import Progress
from learn2splat.meta.report import ReportWriter
from learn2splat.meta.tensorboard import EventWriter
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.learned.pretrained import INITIALISER, KIND, UNCERTAINTY, load_pretrained, save_pretrained
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.run_folder import command, shareable_yaml
from learn2splat.scoring import scene_names

SETTINGS = "config.yaml"
MAY_CHANGE = ("out", "device", "renderer", "train.meta_steps", "train.checkpoint_seconds", "train.validate_every")
"""Settings, with all below them, that may differ when a training is resumed."""


@cache
def _loaded(name: str, max_size: int) -> SceneData:
    return load_scene(name, max_size=max_size, test_every=0)


class Scenes(Sequence[SceneData]):
    """Captures and procedural scenes, loaded when first asked for; several trainings in one process share them.

    Args:
        names: what `load_scene` understands.
        max_size: long side of the photos in pixels.
    """

    def __init__(self, names: Sequence[str], max_size: int) -> None:
        if not names:
            raise UserError("no scenes to train on: give data.procedural or data.captures")
        self.names, self.max_size = list(names), max_size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return _loaded(self.names[index], self.max_size)

    def __iter__(self) -> Iterator[SceneData]:
        return (_loaded(name, self.max_size) for name in self.names)


def shares(data: DictConfig) -> list[float]:
    """How often each of `scene_names` is drawn: captures ``share_captures`` of the time in all, when there are any."""
    captures, made = len(data.captures), int(data.procedural)
    if not captures or not made:
        return [1.0] * (captures + made)
    return [data.share_captures / captures] * captures + [(1 - data.share_captures) / made] * made


def meta_train(
    config: DictConfig, *, stop: Callable[[], bool], listener: TrainingListener | None = None
) -> Path | None:
    """Train what ``config`` describes; the folder of what was trained, or None when it was stopped before.

    Beside the checkpoint, its folder gets ``report.html`` and, where TensorBoard is installed, ``tensorboard/``.

    Args:
        config: as composed from ``configs/meta_train.yaml``.
        stop: asked before each meta-step.
        listener: hears of the training; of several processes, the first one's.

    Raises:
        UserError: its folder holds a training with other settings, or something that was named does not fit.
    """
    device = str(config.device)
    rank = _join_processes(device)
    folder = Path(config.out)
    settings = _settings_to_keep(config)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)  # initial weights
        optimizer = build(config.trainee)
    if config.start is not None:
        _adopt(optimizer, load_pretrained(str(config.start), _kind(optimizer)), f"start={config.start}")
    if config.only is not None:
        _freeze_all_but(config.only, optimizer)
    if config.initialiser is not None:
        initialiser = load_pretrained(str(config.initialiser), INITIALISER)
        _adopt(_part(optimizer, "pyramid"), _part(initialiser, "pyramid"), f"initialiser={config.initialiser}")
    if config.rule is not None:
        _adopt(_part(optimizer, "rule"), load_pretrained(str(config.rule)), f"rule={config.rule}")
    scenes = Scenes(scene_names(config.data), config.data.max_size)
    tasks = TaskSource(scenes, build(config.ranges), shares(config.data))
    trainer = MetaTrainer(
        optimizer,
        build(config.estimator, tasks=tasks, renderer=build(config.renderer), device=device),
        build(config.train),
        folder,
        build(config.score, config=config.validation, renderer=config.renderer, device=device),
        device,
    )
    if rank == 0:
        write_text(folder / SETTINGS, OmegaConf.to_yaml(settings))
        _lead(trainer, listener or TrainingListener(), stop, config)
    else:
        trainer.run(stop=stop)
    return folder / _kind(optimizer) if trainer.finished else None


def _settings_to_keep(config: DictConfig) -> DictConfig:
    """What goes beside the checkpoint; one that is there must come from the same settings, but for `MAY_CHANGE`."""
    file = Path(config.out) / SETTINGS
    settings = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(settings, DictConfig)
    if file.is_file() and (Path(config.out) / "checkpoint-0").exists():
        try:
            then, now = (_flat(OmegaConf.to_container(entry)) for entry in (OmegaConf.load(file), settings))
        except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
            raise UserError(f"{file} is damaged ({type(error).__name__}); delete it to resume without it") from error
        differing = [
            f"{key} was {then.get(key)} and is {now.get(key)}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)
        ]
        if differing:
            raise UserError(
                f"{config.out} holds a training with other settings ({'; '.join(differing[:5])}): "
                "repeat them to resume it, or give another out"
            )
    return settings


def _flat(settings: Any, above: str = "") -> dict[str, Any]:
    """Dotted name -> value of everything in nested ``settings``."""
    if isinstance(settings, dict):
        named = [_flat(value, f"{above}.{key}" if above else str(key)) for key, value in settings.items()]
        return {key: value for part in named for key, value in part.items()}
    return {above: settings}


def _lead(trainer: MetaTrainer[Any], listener: TrainingListener, stop: Callable[[], bool], config: DictConfig) -> None:
    """Train in the process that shows the training and writes its files."""
    listeners = _listeners(listener, trainer.progress, config)
    try:
        best = trainer.run(stop=stop, listener=listeners)
        if trainer.finished:
            _save(best, trainer.progress, config)
    except BaseException:
        listeners.on_abort()
        raise
    listeners.on_end(Path(config.out))


def _listeners(listener: TrainingListener, progress: Progress, config: DictConfig) -> Listeners:
    """``listener``, and those that write files."""
    folder = Path(config.out)
    report = ReportWriter(folder / "report.html", command(), shareable_yaml(config))
    try:
        return Listeners(listener, report, EventWriter(folder / "tensorboard", progress))
    except ImportError:
        listener.on_note("TensorBoard is not installed; for its event files: pip install 'learn2splat[tensorboard]'")
        return Listeners(listener, report)


def _freeze_all_but(parts: Sequence[str], trained: torch.nn.Module) -> None:
    """Leave the named ``parts`` of a network to be trained; the others stay as they are."""
    unknown = set(parts) - {name for name, _ in trained.named_children()}
    if unknown:
        known = ", ".join(name for name, _ in trained.named_children())
        raise UserError(f"only={list(parts)}: {type(trained).__name__} has no {sorted(unknown)}, but {known}")
    for name, parameter in trained.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] in parts)


def _part(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """The named part of a network."""
    found = dict(network.named_children()).get(name)
    if found is None:
        raise UserError(f"{type(network).__name__} has no {name}, which the weights are for or should come from")
    return found


def _adopt(network: torch.nn.Module, trained: torch.nn.Module, where: str) -> None:
    """Give ``network`` the weights of ``trained``, which ``where`` in the configuration names."""
    ours, theirs = ({n: tuple(t.shape) for n, t in one.state_dict().items()} for one in (network, trained))
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        shapes = " here and ".join(str(found.get(name, "missing")) for found in (ours, theirs))
        raise UserError(
            f"{where} does not fit: {name} is {shapes} there, and {len(differing) - 1} more differ; "
            "give trainee the sizes of what was trained"
        )
    network.load_state_dict(trained.state_dict())


def _kind(trained: torch.nn.Module) -> str:
    """What ``trained`` is: also the name of its folder, in that of its training."""
    if isinstance(trained, UncertaintyHead):
        return UNCERTAINTY
    return KIND if hasattr(trained, "update") else INITIALISER


def _save(optimizer: torch.nn.Module, progress: Progress, config: DictConfig) -> None:
    about = {
        "command": command(),
        "version": __version__,
        "config": shareable_paths(OmegaConf.to_container(config, resolve=True)),
        "best_score": progress.best_score,
        "base_score": progress.base_score,
        "history": [row for row in progress.history if "score" in row],
    }
    architecture = OmegaConf.to_container(config.trainee, resolve=True)
    assert isinstance(architecture, dict)
    kind = _kind(optimizer)
    save_pretrained(optimizer, architecture, Path(config.out) / kind, about, kind)  # type: ignore[arg-type]


def _join_processes(device: str) -> int:
    """Join the group that ``torchrun`` started, if any; the rank of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return torch.distributed.get_rank()
