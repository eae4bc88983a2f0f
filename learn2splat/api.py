"""What a user calls from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from learn2splat.config import BadConfigError, compose
from learn2splat.data.base import SceneData
from learn2splat.optim.base import SceneOptimizer
from learn2splat.run_folder import RunFolder
from learn2splat.session import Listener, Result, Session

RESUMABLE_CHANGES = {"steps", "time_budget", "out", "eval_at", "checkpoint_seconds"}
"""Settings that a resumed run may be given anew."""


def optimize(
    scene: SceneData | str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    optimizer: str | SceneOptimizer = "adam",
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Result:
    """Optimise a scene.

    Args:
        scene: a path that `load_scene` understands, or a loaded scene.
        out: folder for the files; None writes none.
        resume: go on with the run in ``out``.
        optimizer: the name of a YAML file of ``configs/optimizer``, or an object.
        listener: hears of steps and evaluations.
        stop: asked before each step; True interrupts the run, with a checkpoint.
        options: any value of ``configs/optimize.yaml``, for example ``steps=500, views="sparse:3"``.

    Raises:
        BadSceneError, BadConfigError, RunFolderError, BackendMissingError: bad input; the message says what to do.

    Example:
        >>> import learn2splat as l2s
        >>> result = l2s.optimize("procedural:seed=1", steps=100, max_size=64)
        >>> result.metrics[-1]["psnr"]  # doctest: +SKIP
    """
    overrides = [f"{key}={_as_override(value)}" for key, value in options.items()]
    if isinstance(optimizer, str):
        overrides.append(f"optimizer={optimizer}")
    source = scene.name if isinstance(scene, SceneData) else str(scene)
    config = compose("optimize", [*overrides, f"scene={_as_override(source)}"])
    session = Session(
        config,
        data=scene if isinstance(scene, SceneData) else None,
        optimizer=None if isinstance(optimizer, str) else optimizer,
        folder=None if out is None else RunFolder(Path(out)),
        resume=resume,
    )
    return session.run(listener or Listener(), stop)


def resume_config(folder: Path, config: DictConfig, given: set[str]) -> DictConfig:
    """The configuration of the run in ``folder``, with what may change taken from ``config``.

    Args:
        folder: the run.
        config: the configuration of the command that resumes.
        given: names of the settings that the command gave explicitly.

    Raises:
        BadConfigError: a setting was given that differs from the run's and cannot change.
    """
    saved = RunFolder(folder).read_config()
    for key in sorted(given - {"scene"}):
        if key in RESUMABLE_CHANGES:
            saved[key] = config[key]
        elif OmegaConf.to_container(config, resolve=True)[key] != OmegaConf.to_container(saved, resolve=True)[key]:  # type: ignore[index,call-overload]
            raise BadConfigError(f"{folder}: the run was begun with another {key}; leave it out, or start a new run")
    return saved


def _as_override(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_as_override(item) for item in value) + "]"
    return str(value)
