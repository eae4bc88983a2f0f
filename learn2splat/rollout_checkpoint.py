"""A rollout's state as named tensors and numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from learn2splat.checkpoint import BadCheckpointError
from learn2splat.optim.base import OptimizerState
from learn2splat.optim.guard import Guard
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene

_SCENES = ("scene", "average", "best")


def pack_rollout(state: RolloutState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A rollout's state as named tensors and numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for entry in fields(state):
        value = getattr(state, entry.name)
        if isinstance(value, GaussianScene):
            tensors |= {f"{entry.name}/{name}": tensor for name, tensor in value.items()}
        elif isinstance(value, OptimizerState):
            tensors |= {f"rows/{name}": tensor for name, tensor in value.rows.items()}
            tensors |= {f"shared/{name}": tensor for name, tensor in value.shared.items()}
        elif isinstance(value, Tensor):
            tensors[entry.name] = value
        elif isinstance(value, Guard):
            numbers[entry.name] = asdict(value)
        elif isinstance(value, Mapping):
            tensors |= {f"{entry.name}/{name}": tensor for name, tensor in value.items()}
        elif value is not None:
            numbers[entry.name] = value
    return tensors, numbers


def unpack_rollout(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> RolloutState:
    """The inverse of `pack_rollout`.

    Raises:
        BadCheckpointError: an entry is unknown or missing.
    """
    groups: dict[str, dict[str, Tensor]] = {name: {} for name in (*_SCENES, "rows", "shared", "statistics")}
    geometry: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        if name in ("footprint", "neighbours", "clusters"):
            geometry[name] = tensor
        elif group in groups and rest:
            groups[group][rest] = tensor
        else:
            raise BadCheckpointError(f"unknown tensor {name!r} in the checkpoint of a run")
    try:
        return RolloutState(
            scene=GaussianScene(**groups["scene"]),
            average=GaussianScene(**groups["average"]) if groups["average"] else None,
            best=GaussianScene(**groups["best"]),
            optimizer=OptimizerState(groups["rows"], groups["shared"]),
            footprint=geometry.get("footprint"),
            neighbours=geometry.get("neighbours"),
            clusters=geometry.get("clusters"),
            statistics=groups["statistics"],
            **{**numbers, "guard": Guard(**numbers.get("guard", {}))},
        )
    except TypeError as error:
        raise BadCheckpointError(f"the checkpoint of a run does not fit this version: {error}") from error
