"""Trained networks, optimizers above all, as folders: the architecture in the manifest, the weights as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from learn2splat import checkpoint
from learn2splat.config import build
from learn2splat.errors import UserError

KIND, INITIALISER, UNCERTAINTY = "optimizer", "initialiser", "uncertainty"
SHIPPED = Path(__file__).resolve().parents[2] / "weights"
"""Folder of what comes with the package."""


def save_pretrained(
    optimizer: torch.nn.Module,
    architecture: Mapping[str, Any],
    folder: Path,
    about: Mapping[str, Any],
    kind: str = KIND,
) -> None:
    """Write an optimizer, or another network.

    Args:
        optimizer: its weights are written.
        architecture: configuration (with ``_target_``) that builds it untrained.
        folder: where to; replaced when it exists.
        about: how it was made: command, seed, data, scores.
        kind: what it is.
    """
    config = {"architecture": dict(architecture), "about": dict(about)}
    checkpoint.save(folder, kind, optimizer.state_dict(), config)


def load_pretrained(name: str, kind: str = KIND) -> torch.nn.Module:
    """A trained optimizer, or another network, ready for use.

    Args:
        name: of a shipped one, or a folder that `save_pretrained` wrote.
        kind: what it should be.

    Raises:
        UserError: there is none of that name, or its folder is damaged or does not fit.
    """
    folder = SHIPPED / name if (SHIPPED / name).is_dir() else Path(name)
    if not folder.is_dir():
        names = ", ".join(shipped(kind)) or "none"
        raise UserError(f"no {kind} {name!r}: neither a folder nor one that is shipped ({names})")
    tensors, config = checkpoint.load(folder, kind)
    try:
        architecture = OmegaConf.create(config["architecture"])
    except (KeyError, TypeError, OmegaConfBaseException) as error:
        raise checkpoint.BadCheckpointError(f"{folder}: it describes no architecture ({error!r})") from error
    optimizer = build(architecture)
    if not isinstance(optimizer, torch.nn.Module):
        raise checkpoint.BadCheckpointError(f"{folder}: its architecture is no network")
    try:
        optimizer.load_state_dict(tensors)
    except RuntimeError as error:
        raise checkpoint.BadCheckpointError(f"{folder}: the weights do not fit the architecture ({error})") from error
    return optimizer.eval()


def is_pretrained(folder: str) -> bool:
    """Whether ``folder`` looks like one that `save_pretrained` wrote."""
    return bool(folder) and (Path(folder) / checkpoint.MANIFEST).is_file()


def pretrained_config(folder: str) -> dict[str, str]:
    """The configuration that loads the trained optimizer of ``folder``."""
    return {"_target_": f"{load_pretrained.__module__}.{load_pretrained.__name__}", "name": str(Path(folder).resolve())}


def shipped(kind: str = KIND) -> list[str]:
    """Names of the trained networks of one kind that come with the package."""
    return sorted(
        manifest.parent.name
        for manifest in SHIPPED.glob(f"*/{checkpoint.MANIFEST}")
        if checkpoint.kind_of(manifest.parent) == kind
    )
