"""A scene, a gradient or a direction as one matrix with a row per Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.scene.gaussians import GaussianScene

WIDTHS = (3, 3, 4, 1)
"""Columns of means, log_scales, quats and logit_opacities; the harmonics take the rest."""


def as_matrix(scene: GaussianScene) -> Tensor:
    """[N, 11 + 3 K]: the parameters side by side, in the order of the fields."""
    return torch.cat([tensor.reshape(len(scene), -1) for tensor in scene.tensors()], dim=1)


def from_matrix(matrix: Tensor) -> GaussianScene:
    """The inverse of `as_matrix`."""
    rows, columns = matrix.shape
    means, log_scales, quats, logit_opacities, sh = matrix.split([*WIDTHS, columns - sum(WIDTHS)], dim=1)
    parts = (means, log_scales, quats, logit_opacities[:, 0], sh.reshape(rows, -1, 3))
    return GaussianScene(*(part.contiguous() for part in parts))
