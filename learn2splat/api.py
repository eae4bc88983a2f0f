"""What a user calls from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch

from learn2splat.cameras import Cameras
from learn2splat.config import BadConfigError, build
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.drop_in import TorchSceneOptimizer
from learn2splat.errors import UserError
from learn2splat.optim.base import SceneOptimizer
from learn2splat.run_config import DEFAULT_OPTIMIZER, compose_run, resumed
from learn2splat.run_folder import RunFolder, RunFolderError, newest_unfinished
from learn2splat.session import Listener, Result, Session

OUTPUTS = Path("outputs")


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
    settings["scene"] = f"{scene.name} (given in Python)" if isinstance(scene, SceneData) else str(scene)
    config = compose_run(settings).config
    if not isinstance(optimizer, str):
        config.optimizer = {"given_in_python": type(optimizer).__name__}
    session = Session(
        config,
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
    built = build(compose_run({"optimizer": optimizer}).config.optimizer) if isinstance(optimizer, str) else optimizer
    return TorchSceneOptimizer(params, built, cameras, horizon, batch_views)


class LearnedOptimizer:
    """Trained optimizers by name."""

    @staticmethod
    def from_pretrained(name: str = DEFAULT_OPTIMIZER) -> SceneOptimizer:
        """A trained optimizer, ready for `optimize` and `torch_optimizer`.

        Args:
            name: of a shipped one ("l2s" is the best of them), or the folder of one's own.

        Raises:
            UserError: there is none of that name, or its folder is damaged.
        """
        optimizer: SceneOptimizer = build(compose_run({"optimizer": name}).config.optimizer)
        if not isinstance(optimizer, torch.nn.Module):
            raise UserError(f"{name!r} is not a learned optimizer; try l2s, or the folder of a training")
        return optimizer


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
    run = compose_run(settings, overrides)
    if resume and run.config.out is not None:
        folder = RunFolder(Path(run.config.out))
        return Session(resumed(folder, run), folder=folder, resume=True)
    if "scene" not in run.given:
        raise BadConfigError("give a scene: --scene PATH, or --scene procedural:seed=0")
    config = run.config
    data = load_scene(config.scene, max_size=config.max_size, test_every=config.test_every)
    runs = OUTPUTS / data.name / run.optimizer
    if resume:
        found = newest_unfinished(runs)
        if found is None:
            raise RunFolderError(f"{runs} holds no unfinished run; name one with --out, or leave out --resume")
        return Session(resumed(RunFolder(found), run), folder=RunFolder(found), resume=True)
    return Session(config, data=data, folder=RunFolder(Path(config.out) if config.out else new_folder(runs)))


def new_folder(runs: Path) -> Path:
    """A folder below ``runs`` that is not there yet, named by the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    return next(runs / name for name in names if not (runs / name).exists())
