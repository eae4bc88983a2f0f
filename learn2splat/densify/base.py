"""The seam of densification: how the set of Gaussians changes in a run.

A densifier is a pure function of statistics, scene, step and generator. It says by a `Lineage` how the new rows descend
from the old ones; scene, optimizer state, statistics and averages all follow that one lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

MAX_GAUSSIANS = 1_000_000
"""The cap where none is given."""
STANDARD_STEPS = 30_000
"""Steps of a standard run: schedules are stated for it, and it is assumed where the number of steps is unknown."""

Statistics = Mapping[str, Tensor]
"""What a densifier remembers of past steps: tensors with one row per Gaussian."""


@dataclass(frozen=True)
class ScreenEvidence:
    """What one batch of views tells of the Gaussians on the screen.

    Args:
        gradient_ndc: [N] sum over the views of the norm of the derivative of that view's own loss by the projected
            centre, in normalised device coordinates (the image spans -1..1), the unit of 3DGS.
        views: [N] number of views that draw the Gaussian.
    """

    gradient_ndc: Tensor
    views: Tensor

    @classmethod
    def of(cls, means2d_px: Tensor, visible: Tensor, size: tuple[int, int], batch_views: int) -> ScreenEvidence:
        """The evidence of V views of one size.

        Args:
            means2d_px: [V, N, 2] derivative of (loss of the view / batch_views) by the projected centre in pixels.
            visible: [V, N] bool.
            size: (width, height) in pixels.
            batch_views: views of the whole batch.
        """
        half_size = torch.tensor(size, dtype=means2d_px.dtype, device=means2d_px.device) / 2
        norms = (means2d_px * half_size).norm(dim=-1) * batch_views
        return cls((norms * visible).sum(dim=0), visible.sum(dim=0).to(norms))

    def plus(self, other: ScreenEvidence) -> ScreenEvidence:
        """That of both groups of views."""
        return ScreenEvidence(self.gradient_ndc + other.gradient_ndc, self.views + other.views)


@dataclass(frozen=True)
class DensifyContext:
    """What is known when a densifier is asked.

    Args:
        step: updates made so far.
        horizon: how many there will be in all, when known.
        extent_world: size of the camera rig, world units (`Cameras.extent_world`).
        max_gaussians: how many there may be.
        generator: source of all randomness, on the CPU, new for each step; numbers are drawn in the order of the rows.
    """

    step: int
    horizon: int | None
    extent_world: float
    max_gaussians: int
    generator: torch.Generator

    @property
    def steps(self) -> int:
        """The horizon, or a standard one."""
        return self.horizon or STANDARD_STEPS


@dataclass(frozen=True)
class Densified:
    """A changed set of Gaussians.

    Args:
        scene: the new rows; differentiable in the old ones, with all choices and random numbers fixed.
        lineage: where they come from; None when every row stayed and went on with its own history.
        statistics: of the new rows.
    """

    scene: GaussianScene
    lineage: Lineage | None
    statistics: Statistics


class Densifier(Protocol):
    """Decides which Gaussians are born, die or are moved."""

    @property
    def needs_screen(self) -> bool:
        """Whether `observe` requires `ScreenEvidence`."""
        ...

    def init(self, scene: GaussianScene) -> Statistics:
        """The statistics before the first step on ``scene``."""
        ...

    def observe(self, statistics: Statistics, evidence: ScreenEvidence | None) -> Statistics:
        """The statistics after one more batch; arguments are not modified."""
        ...

    def penalised(self, grads: GaussianScene, scene: GaussianScene, extent_world: float) -> GaussianScene:
        """``grads`` with those of the penalties that the method adds to the loss; arguments are not modified."""
        ...

    def densify(self, statistics: Statistics, scene: GaussianScene, context: DensifyContext) -> Densified | None:
        """The set after this step, or None when nothing changes; arguments are not modified."""
        ...


class NoDensifier:
    """The Gaussians of the start, no more and no fewer."""

    needs_screen = False

    def init(self, scene: GaussianScene) -> Statistics:
        return {}

    def observe(self, statistics: Statistics, evidence: ScreenEvidence | None) -> Statistics:
        return statistics

    def penalised(self, grads: GaussianScene, scene: GaussianScene, extent_world: float) -> GaussianScene:
        return grads

    def densify(self, statistics: Statistics, scene: GaussianScene, context: DensifyContext) -> Densified | None:
        return None


@dataclass(frozen=True)
class Growth:
    """How the set of Gaussians changes in one run.

    Args:
        densifier: decides.
        horizon: number of steps that schedules are scaled to, when known.
        max_gaussians: how many there may be.
        seed: of all randomness; step t has a generator of its own, so that a resumed run goes on to the same bits.
        sh_every: steps between raising the degree of the harmonics that are optimised, from 0 on (3DGS: 1,000); 0
            optimises all of them from the start.
    """

    densifier: Densifier = field(default_factory=NoDensifier)
    horizon: int | None = None
    max_gaussians: int = MAX_GAUSSIANS
    seed: int = 0
    sh_every: int = 0

    def context(self, step: int, extent_world: float) -> DensifyContext:
        """What the densifier is told after update number ``step``."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        return DensifyContext(step, self.horizon, extent_world, self.max_gaussians, generator)

    def sh_degree(self, step: int, stored: int) -> int:
        """The degree to optimise after ``step`` updates of a scene that stores harmonics up to ``stored``."""
        return min(stored, step // self.sh_every) if self.sh_every else stored
