"""The seam of every optimizer, learned or not.

An optimizer is functional: its state is data, so that a run can be saved, resumed, buffered and carried through
densification. It sees gradients and a `StepContext`, never a renderer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

NEIGHBOURS = 6
"""How many neighbours `Need.NEIGHBOURS` gives."""


CLUSTERS = 64
"""How many parts `Need.CLUSTERS` gives at most."""


class Need(Enum):
    """What an optimizer wants computed for its context beside the summed gradient."""

    PIXEL_FOOTPRINT = "pixel_footprint_world"
    VIEW_SQUARES = "view_squares"
    NEIGHBOURS = "neighbours"
    CLUSTERS = "clusters"
    TRUST = "trust"
    LOSS_MODEL = "loss_model"
    SQUARED_ERROR_MODEL = "squared_error_model"
    RENDERINGS = "renderings"
    """Of all training views, instead of gradients: those are not computed, and given as zeros."""
    GRADIENTS = "gradients"
    """Beside `RENDERINGS`, and of the same views; optimizers that need no renderings are given gradients anyway."""


@dataclass(frozen=True)
class Renderings:
    """Views of one size as they are and as they should be.

    Args:
        cameras: V views.
        photos: [V, H, W, 3] in 0..1.
        images: [V, H, W, 3] colour, background included.
        alpha: [V, H, W] accumulated opacity.
        depth: [V, H, W] sum of blending weight x camera depth, world units.
    """

    cameras: Cameras
    photos: Tensor
    images: Tensor
    alpha: Tensor
    depth: Tensor


class QuadraticModel(Protocol):
    """A loss around the current scene: value + g^T v + v^T H v / 2, with H positive semidefinite."""

    @property
    def value(self) -> float:
        """The loss at the current scene."""
        ...

    @property
    def gradient(self) -> GaussianScene:
        """g, its derivative by the raw parameters."""
        ...

    def sampled(self, share: float, generator: torch.Generator) -> QuadraticModel:
        """An unbiased estimate of this model from a random ``share`` in (0, 1] of the pixels, the same in all it gives.

        With share 1 it is this model.
        """
        ...

    def product(self, direction: GaussianScene) -> GaussianScene:
        """H v."""
        ...

    def diagonal(self) -> GaussianScene:
        """An approximation of diag(H), of 0 or more, for preconditioning and damping."""
        ...

    def blocks(self) -> tuple[GaussianScene, Tensor]:
        """The diagonal, and [N, 10, 10]: that part of H which couples a Gaussian's means, log_scales and quats."""
        ...

    def value_at(self, scene: GaussianScene) -> float:
        """The loss itself, not its model, at another scene."""
        ...


@dataclass(frozen=True)
class StepContext:
    """What is known when an update is asked for.

    Args:
        step: how many updates were made before this one.
        horizon: how many there will be in all, when known.
        batch_views: views whose mean loss the gradient belongs to.
        train_views: training views of the scene.
        extent_world: size of the camera rig, world units (`Cameras.extent_world`).
        visible: [N] bool, drawn in at least one view of the batch.
        loss: mean loss of the batch before the update.
        pixel_footprint_world: [N] size of a pixel at the Gaussian, world units (`Need.PIXEL_FOOTPRINT`).
        clusters: [N] int64, which of CLUSTERS parts of the scene a Gaussian belongs to (`Need.CLUSTERS`).
        neighbours: [N, NEIGHBOURS] int32 rows of the nearest other Gaussians (`Need.NEIGHBOURS`).
        probe_loss: latest loss on training views that are not optimised on; None without any.
        trust: share in 0..1 of what was learned that is used, in logarithms of steps and in weights: at 0 a learned
            optimizer is its base, to the bit. A guard sets it for optimizers that ask for it (`Need.TRUST`).
        view_squares: sum over views of the squared gradient of that view's loss / batch_views (`Need.VIEW_SQUARES`).
        model: of the batch's loss (`Need.LOSS_MODEL`), or of half its mean squared error (`Need.SQUARED_ERROR_MODEL`).
        renderings: of all training views, before the update (`Need.RENDERINGS`).
        photo_side_px: longest side of the training photos, when known.
    """

    step: int
    horizon: int | None
    batch_views: int
    train_views: int
    extent_world: float
    visible: Tensor
    loss: float
    pixel_footprint_world: Tensor | None = None
    view_squares: GaussianScene | None = None
    neighbours: Tensor | None = None
    clusters: Tensor | None = None
    probe_loss: float | None = None
    trust: float = 1.0
    model: QuadraticModel | None = None
    renderings: Renderings | None = None
    photo_side_px: int | None = None


@dataclass(frozen=True)
class OptimizerState:
    """Everything an optimizer remembers.

    Args:
        rows: tensors [N, ...] with one row per Gaussian; they follow a `Lineage`. A name that ends in ``.parameter``
            tells which parameter they belong to.
        shared: tensors that belong to the run as a whole.
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, lineage: Lineage, inherited: Collection[str] = ()) -> OptimizerState:
        """Rows follow ``lineage``: fresh rows, and all rows of a restarted parameter, start at zero.

        Args:
            lineage: of the new scene.
            inherited: names of rows that the newborn take over from their parent instead.
        """

        def follow(name: str, rows: Tensor) -> Tensor:
            taken = lineage.take(rows, None if name in inherited else 0)
            return torch.zeros_like(taken) if name.rpartition(".")[2] in lineage.restarted else taken

        return OptimizerState({name: follow(name, rows) for name, rows in self.rows.items()}, dict(self.shared))


class SceneOptimizer(Protocol):
    """Turns gradients of a scene into updates."""

    @property
    def needs(self) -> frozenset[Need]:
        """What `update` requires of its context."""
        ...

    def init(self, scene: GaussianScene) -> OptimizerState:
        """The state before the first step on ``scene``."""
        ...

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        """The change to add to ``scene`` [same shapes] and the next state; arguments are not modified."""
        ...

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        """The state for a scene whose rows follow ``lineage``."""
        ...


@runtime_checkable
class InformedOptimizer(Protocol):
    """A `SceneOptimizer` that can begin with what an initialiser knows about each Gaussian."""

    def init_informed(self, scene: GaussianScene, features: Tensor) -> OptimizerState:
        """The state before the first step on ``scene``, of which ``features`` [N, C] tell.

        Raises:
            UserError: they are those of another initialiser.
        """
        ...


def first_state(optimizer: SceneOptimizer, scene: GaussianScene, features: Tensor | None) -> OptimizerState:
    """The state before the first step, from an initialiser's ``features`` [N, C] where both sides can."""
    if features is None or not isinstance(optimizer, InformedOptimizer):
        return optimizer.init(scene)
    return optimizer.init_informed(scene, features)


def to_device(optimizer: SceneOptimizer, device: torch.device | str) -> None:
    """Move the weights of a learned optimizer to where the scene is; others have none."""
    if isinstance(optimizer, torch.nn.Module):
        optimizer.to(device)


def apply_update(scene: GaussianScene, update: GaussianScene) -> GaussianScene:
    """scene + update."""
    return scene.map(torch.add, update)


def as_rows(prefix: str, scene: GaussianScene) -> dict[str, Tensor]:
    """A scene-shaped quantity as state rows named ``prefix.parameter``."""
    return {f"{prefix}.{name}": tensor for name, tensor in scene.items()}


def from_rows(prefix: str, state: OptimizerState) -> GaussianScene:
    """The inverse of `as_rows`; ``KeyError`` names what is missing."""
    names = [name for name in state.rows if name.startswith(f"{prefix}.")]
    if not names:
        raise KeyError(f"the optimizer state holds no {prefix!r}; it has {sorted(state.rows)}")
    return GaussianScene(**{name.removeprefix(f"{prefix}."): state.rows[name] for name in names})


def zeros_like(scene: GaussianScene) -> GaussianScene:
    """Zeros in the shape of ``scene``."""
    return scene.map(torch.zeros_like)
