"""What a user calls from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from learn2splat.cameras import Cameras
from learn2splat.config import BadConfigError, build, compose
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.drop_in import TorchSceneOptimizer
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.pretrained import is_pretrained, pretrained_config
from learn2splat.run_folder import RunFolder, RunFolderError, newest_unfinished
from learn2splat.session import Listener, Result, Session

OUTPUTS = Path("outputs")
DEFAULT_OPTIMIZER = "adam"
RESUMABLE_CHANGES = {"steps", "time_budget", "out", "eval_at", "checkpoint_seconds"}
"""Settings that a resumed run may be given anew."""


def optimize(
    scene: SceneData | str | Path,
    *,
    out: str | Path | None = None,
    optimizer: str | SceneOptimizer = DEFAULT_OPTIMIZER,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Result:
    """Optimise a scene.

    Args:
        scene: a path that `load_scene` understands, or a loaded scene.
        out: folder for the files; None writes none.
        optimizer: the name of a YAML file of ``configs/optimizer``, the folder of a trained optimizer, or an object.
        listener: hears of steps and evaluations.
        stop: asked before each step; True interrupts the run.
        options: any value of ``configs/optimize.yaml``, for example ``steps=500, views="sparse:3"``.

    Raises:
        UserError: bad input; the message says what to do.
        BackendMissingError: a backend that was asked for is not there.

    Example:
        >>> import learn2splat as l2s
        >>> result = l2s.optimize("procedural:seed=1", steps=100, max_size=64)
        >>> result.metrics[-1]["psnr"]  # doctest: +SKIP
    """
    settings = dict(options)
    if isinstance(optimizer, str):
        settings["optimizer"] = optimizer
    settings["scene"] = scene.name if isinstance(scene, SceneData) else str(scene)
    session = Session(
        compose_run(settings),
        data=scene if isinstance(scene, SceneData) else None,
        optimizer=None if isinstance(optimizer, str) else optimizer,
        folder=None if out is None else RunFolder(Path(out)),
    )
    return session.run(listener or Listener(), stop)


def torch_optimizer(
    params: MutableMapping[str, Any],
    cameras: Cameras,
    optimizer: str | SceneOptimizer = DEFAULT_OPTIMIZER,
    horizon: int | None = None,
    batch_views: int = 1,
) -> TorchSceneOptimizer:
    """An optimizer of this package in another trainer, in place of `torch.optim.Adam` over gsplat-style parameters.

    Args:
        params: ``means, scales, quats, opacities, sh0, shN`` as gsplat's trainers keep them.
        cameras: training cameras, for the size of a pixel at each Gaussian.
        optimizer: the name of a YAML file of ``configs/optimizer``, the folder of a trained optimizer, or an object.
        horizon: number of steps when known.
        batch_views: views whose mean loss is differentiated in each step.

    Raises:
        UserError: there is no optimizer of that name.
        ValueError: a parameter is missing.
    """
    built = build(compose_run({"optimizer": optimizer}).optimizer) if isinstance(optimizer, str) else optimizer
    return TorchSceneOptimizer(params, built, cameras, horizon, batch_views)


def open_session(settings: Mapping[str, Any], overrides: Sequence[str] = (), *, resume: bool = False) -> Session:
    """The run that ``l2s optimize`` is asked for, new or resumed, with its folder.

    Args:
        settings: values of ``configs/optimize.yaml`` that were given explicitly.
        overrides: more of them, in Hydra's syntax.
        resume: go on with the run in ``settings["out"]``, or the newest unfinished one of that scene and optimizer.

    Raises:
        UserError: bad input; the message says what to do.
        BackendMissingError: a backend that was asked for is not there.
    """
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    if resume and "out" in settings:
        settings.setdefault("scene", "")  # the run in the folder knows its scene
    if "scene" not in settings:
        raise BadConfigError("give a scene: --scene PATH, or --scene procedural:seed=0")
    config = compose_run(settings, overrides)
    if config.out is not None and resume:
        folder = RunFolder(Path(config.out))
        config = resume_config(folder, config, {*settings, *(text.split("=")[0].split(".")[0] for text in overrides)})
        return Session(config, folder=folder, resume=True)
    data = load_scene(config.scene, max_size=config.max_size, test_every=config.test_every)
    runs = OUTPUTS / data.name / Path(str(settings.get("optimizer", DEFAULT_OPTIMIZER))).name
    if resume:
        found = newest_unfinished(runs)
        if found is None:
            raise RunFolderError(f"{runs} holds no unfinished run; name one with --out, or leave out --resume")
        config = resume_config(RunFolder(found), config, set(settings) - {"scene", "optimizer"})
        return Session(config, folder=RunFolder(found), resume=True)
    folder = RunFolder(Path(config.out) if config.out else runs / time.strftime("%Y%m%d-%H%M%S"))
    return Session(config, data=data, folder=folder)


def compose_run(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> DictConfig:
    """``configs/optimize.yaml`` with ``settings``; the optimizer may be the folder of a trained one."""
    folder = str(settings.get("optimizer", ""))
    if not is_pretrained(folder):
        return compose("optimize", [*as_overrides(settings), *overrides])
    others = {key: value for key, value in settings.items() if key != "optimizer"}
    config = compose("optimize", [*as_overrides(others), *overrides])
    config.optimizer = pretrained_config(folder)
    return config


def resume_config(folder: RunFolder, config: DictConfig, given: set[str]) -> DictConfig:
    """The configuration of the run in ``folder``, with what may change taken from ``config``.

    Args:
        folder: the run.
        config: the configuration of the command that resumes.
        given: names of the settings that the command gave explicitly.

    Raises:
        BadConfigError: a setting was given that differs from the run's and cannot change.
    """
    saved = folder.read_config()
    now, then = (OmegaConf.to_container(node, resolve=True) for node in (config, saved))
    assert isinstance(now, dict)
    assert isinstance(then, dict)
    for key in sorted(given):
        if key in RESUMABLE_CHANGES:
            saved[key] = config[key]
        elif now.get(key) != then.get(key) and now.get(key) != "":
            raise BadConfigError(f"{folder.path}: the run was begun with another {key}; leave it out, or start anew")
    return saved


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Values as Hydra overrides, quoted so that any text survives."""
    return [f"{key}={_quoted(value)}" for key, value in settings.items()]


def _quoted(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    return str(value)
