"""The configuration of a run: composed from what was given, checked, and compared with that of a run to resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from learn2splat.config import BadConfigError, compose
from learn2splat.optim.learned.pretrained import is_pretrained, pretrained_config
from learn2splat.predict.kind import PredictionKind
from learn2splat.run_folder import RunFolder

DEFAULT_OPTIMIZER = "l2s"
DENSIFIED_STEPS = 3000
"""Dense runs of so many steps densify unless they are told."""
RESUMABLE_CHANGES = {
    "steps",
    "time_budget",
    "out",
    "eval_at",
    "eval_seconds",
    "lpips",
    "checkpoint_seconds",
    "estimate_from",
    "max_memory",
}
"""Settings that a resumed run may be given anew."""
TEXT = ("scene", "init", "views", "out", "device", "guard", "lpips", "uncertainty")
"""Settings that are plain text and do not go through Hydra's grammar: paths may hold any character."""
NAMED = ("optimizer", "densify")
"""Groups of which a setting may name what is no YAML file."""


@dataclass(frozen=True)
class RunConfig:
    """A composed configuration.

    Args:
        config: checked.
        given: names of the settings that were given explicitly.
        optimizer: name of the optimizer, for folders.
    """

    config: DictConfig
    given: frozenset[str]
    optimizer: str


def compose_run(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """``configs/optimize.yaml`` with ``settings`` and ``key=value`` overrides.

    The optimizer may be a folder. ``densify`` may be "auto", which is settled here: "default" for long dense runs, and
    for all that are given constants of it. A time budget without steps leaves them unbounded: None, a long run.

    Raises:
        BadConfigError: a setting is unknown or not legal.
    """
    given, rest = dict(settings), []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in (*TEXT, *NAMED):
            given[key] = value
        else:
            rest.append(override)
    optimizer = str(given.get("optimizer", DEFAULT_OPTIMIZER))
    names = frozenset({*given, *(text.split("=")[0].split(".")[0].lstrip("+~") for text in rest)})
    plain = {key: value for key, value in given.items() if key not in (*TEXT, *NAMED)}
    choice = [] if is_pretrained(optimizer) else [f"optimizer={_quoted(optimizer)}"]
    densify = str(given.get("densify", "auto"))
    choice.append(f"densify={_quoted('default' if densify == 'auto' else densify)}")
    config = compose("optimize", [*(f"{key}={_quoted(value)}" for key, value in plain.items()), *choice, *rest])
    if config.time_budget is not None and "steps" not in names:
        config.steps = None
    if is_pretrained(optimizer):
        config.optimizer = pretrained_config(optimizer)
    for key in TEXT:
        if given.get(key) is not None:
            config[key] = _text(key, str(given[key]))
    _check(config)
    wanted = config.views == "dense" and (config.steps is None or config.steps >= DENSIFIED_STEPS)
    if densify == "auto" and not wanted and not any(text.startswith("densify.") for text in rest):
        config.densify = compose("optimize", ["densify=none"]).densify
    return RunConfig(config, names, Path(optimizer).name)


def resumed(folder: RunFolder, run: RunConfig) -> DictConfig:
    """The configuration of the run in ``folder``, with what may change taken from ``run``.

    Raises:
        BadConfigError: a setting was given that differs from the run's and cannot change.
    """
    saved = folder.read_config()
    now, then = (OmegaConf.to_container(node, resolve=True) for node in (run.config, saved))
    assert isinstance(now, dict)
    assert isinstance(then, dict)
    for key in RESUMABLE_CHANGES.difference(then):  # of a version that did not have it yet
        saved[key] = run.config[key]
    for key in sorted(run.given):
        if key in RESUMABLE_CHANGES:
            saved[key] = run.config[key]
        elif now.get(key) != then.get(key):
            raise BadConfigError(f"{folder.path}: the run was begun with another {key}; leave it out, or start anew")
    try:
        _check(saved)
    except (AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise BadConfigError(
            f"{folder.path / 'config.yaml'}: it is not complete ({reason}); start a new run"
        ) from error
    return saved


def overridden(saved: DictConfig, run: RunConfig) -> DictConfig:
    """The configuration of a run with all that was given to ``run``, in order to look at its scene in another way."""
    for key in run.given:
        saved[key] = run.config[key]
    return saved


def _text(key: str, value: str) -> str:
    """A setting as plain text, paths made absolute so that a run can be resumed from anywhere."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadConfigError(f"{key}={value!r} is not valid UTF-8; rename the file") from error
    if "${" in value:
        raise BadConfigError(f"{key}={value!r}: '${{' cannot be part of a setting; rename the folder or use a link")
    if key == "scene" and Path(value).expanduser().exists():
        return str(Path(value).expanduser().resolve())
    if key == "lpips":
        return str(Path(value).expanduser().resolve())
    if key == "init" and value.startswith("ply:"):
        return f"ply:{Path(value.removeprefix('ply:')).expanduser().resolve()}"
    if key == "uncertainty":
        return _absolute(value)
    if key == "init" and (asked := PredictionKind.parse(value)) is not None:
        return str(asked.map(_absolute))
    return value


def _absolute(name: str) -> str:
    """The absolute path of a folder; a name of none, or nothing, stays."""
    return str(Path(name).expanduser().resolve()) if name and Path(name).expanduser().is_dir() else name


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= least


def _check(config: DictConfig) -> None:
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "steps": (
            lambda v: _whole(v, 0) or (v is None and config.time_budget is not None),
            "0 or more; null needs a time_budget",
        ),
        "batch_views": (lambda v: _whole(v, 1), "1 or more"),
        "max_size": (lambda v: _whole(v, 16), "16 or more"),
        "sh_degree": (lambda v: _whole(v, 0) and v <= 3, "0, 1, 2 or 3"),
        "init_gaussians": (lambda v: _whole(v, 1), "1 or more"),
        "max_gaussians": (lambda v: v is None or _whole(v, 1), "1 or more"),
        "max_memory": (lambda v: v is None or _whole(v, 1), "1 MiB or more"),
        "sh_every": (lambda v: _whole(v, 0), "0 or more"),
        "estimate_from": (lambda v: _whole(v, 0), "0 or more"),
        "time_budget": (lambda v: v is None or (_number(v, 0) and v > 0), "a positive number of seconds"),
        "checkpoint_seconds": (lambda v: _number(v, 0), "a number of seconds"),
        "test_every": (lambda v: _whole(v, 0) and v != 1, "0 (hold out none) or 2 and more"),
        "seed": (lambda v: _whole(v, 0), "a whole number of 0 or more"),
        "eval_at": (lambda v: isinstance(v, ListConfig) and all(_whole(step, 0) for step in v), "a list of steps"),
        "eval_seconds": (
            lambda v: isinstance(v, ListConfig) and all(_number(second, 0) for second in v),
            "a list of seconds",
        ),
        "background": (
            lambda v: isinstance(v, ListConfig) and len(v) == 3 and all(_number(c, 0) and c <= 1 for c in v),
            "three numbers in 0..1",
        ),
        "device": (lambda v: v in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        "guard": (lambda v: v in ("auto", "on", "lean", "off"), "auto, on, lean or off"),
        "average": (lambda v: isinstance(v, bool), "true or false"),
        "uncertainty": (lambda v: isinstance(v, str) and v != "", "off, predict or a folder"),
        "out": (lambda v: v is None or (isinstance(v, str) and v.strip() != ""), "a folder"),
    }
    for part in ("optimizer", "renderer", "loss", "sampler", "densify"):
        rules[part] = (lambda v: isinstance(v, DictConfig), "a configuration with _target_")
    for key, (legal, remedy) in rules.items():
        if not legal(config[key]):
            raise BadConfigError(f"{key}={config[key]!r}: it must be {remedy}")


def _quoted(value: Any) -> str:
    """A value in Hydra's syntax."""
    if value is None:
        return "null"
    if isinstance(value, str):
        escaped = value.replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    return str(value)
