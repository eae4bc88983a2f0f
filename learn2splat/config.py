"""Hydra configuration: composing it and building objects from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from learn2splat.errors import UserError

ALLOWED_TARGETS = ("learn2splat.", "torch.optim.")
"""What a configuration may construct."""


class BadConfigError(UserError):
    """A configuration that cannot be composed or built; the message says what is legal."""


def config_dir() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "configs"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "configs"


def choices(group: str) -> list[str]:
    """Names of the YAML files of one group."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``name``.yaml with Hydra ``overrides`` such as ``optimizer=sgd`` or ``loss.ssim_weight=0.1``.

    Raises:
        BadConfigError: an override names no key or group, or has no legal value.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            return hydra_compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise BadConfigError(f"cannot use {' '.join(overrides)!r}: {reason}") from error


def build(node: DictConfig, **extra: Any) -> Any:
    """Construct what ``node._target_`` names, nested nodes included.

    Raises:
        BadConfigError: a target is not allowed or does not exist, or its constructor refuses the values.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise BadConfigError(f"{plain!r} is no configuration of an object: it has no _target_")
    _check_targets(plain)
    try:
        if not extra:
            return instantiate(plain, _convert_="all")
        # Hydra would turn dataclasses among the arguments into dictionaries
        return instantiate(plain, _partial_=True, _convert_="all")(**extra)
    except (HydraException, TypeError, ValueError) as error:
        cause = error.__cause__
        if isinstance(error, HydraException) and not isinstance(cause, ValueError | TypeError | ImportError | None):
            raise cause from error
        if isinstance(cause, UserError):
            raise cause from error
        raise BadConfigError(f"{plain['_target_']}: {cause or error}") from error


def _check_targets(node: Any) -> None:
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not str(target).startswith(ALLOWED_TARGETS):
            raise BadConfigError(
                f"_target_ {target!r} is not allowed; it must start with {' or '.join(ALLOWED_TARGETS)}"
            )
        for value in node.values():
            _check_targets(value)
    elif isinstance(node, list):
        for value in node:
            _check_targets(value)
