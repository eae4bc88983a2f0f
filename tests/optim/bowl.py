"""A loss that is its own quadratic model, for optimizers that ask for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix, from_matrix


@dataclass(frozen=True)
class Bowl:
    """1 + g^T v + v^T H v / 2 at scene + v, with H = diag(curvature) + c c^T, c the roots of ``curvature`` / 10.

    Args:
        scene: where v is zero.
        gradient: g.
        curvature: of 0 or more.
        error: added to the loss wherever v is not zero.
    """

    scene: GaussianScene
    gradient: GaussianScene
    curvature: GaussianScene
    error: float = 0.0
    value: float = 1.0

    def matrix(self) -> Tensor:
        """H over the flattened rows of `as_matrix`."""
        diagonal = as_matrix(self.curvature).flatten()
        return torch.diag(diagonal) + torch.outer(diagonal.sqrt(), diagonal.sqrt()) / 100

    def sampled(self, share: float, generator: torch.Generator) -> Bowl:
        return self

    def product(self, direction: GaussianScene) -> GaussianScene:
        v, diagonal = as_matrix(direction), as_matrix(self.curvature)
        roots = diagonal.sqrt() / 10
        return from_matrix(diagonal * v + roots * (roots.double() * v.double()).sum().to(v))

    def diagonal(self) -> GaussianScene:
        return self.curvature.map(lambda entries: 1.01 * entries)

    def blocks(self) -> tuple[GaussianScene, Tensor]:
        roots = as_matrix(self.curvature)[:, :10].sqrt()
        return self.diagonal(), torch.diag_embed(roots.square()) + roots[:, :, None] * roots[:, None] / 100

    def value_at(self, scene: GaussianScene) -> float:
        change = scene.map(torch.sub, self.scene)
        v = as_matrix(change).double()
        bend = (v * as_matrix(self.product(change)).double()).sum()
        moved = self.error if bool((v != 0).any()) else 0.0
        return self.value + moved + float((v * as_matrix(self.gradient).double()).sum() + 0.5 * bend)
