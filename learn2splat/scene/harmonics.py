"""Real spherical harmonics up to degree 3, in the sign convention of 3DGS (Kerbl et al. 2023)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from learn2splat.scene.gaussians import SH_C0

_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Basis functions at unit ``directions`` [..., 3] -> [..., (degree + 1)^2]; differentiable in the directions."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        basis += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            _C2[0] * x * y,
            -_C2[0] * y * z,
            _C2[1] * (2 * zz - xx - yy),
            -_C2[0] * x * z,
            _C2[2] * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -_C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            -_C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3[2] * x * (4 * zz - xx - yy),
            _C3[4] * z * (xx - yy),
            -_C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim=-1)


def sh_rotations(rotations: Tensor, degree: int) -> Tensor:
    """[..., K, K] matrices that turn coefficients, K = (degree + 1)^2.

    A colour that is seen along a direction d before is seen along R d after.

    Args:
        rotations: [..., 3, 3] matrices R.
        degree: of the harmonics, 0..3.
    """
    directions, inverse = (tensor.to(rotations) for tensor in _samples(degree))
    return inverse @ sh_basis(directions @ rotations, degree)  # rows are R^T d


@cache
def _samples(degree: int) -> tuple[Tensor, Tensor]:
    """Directions [S, 3] spread over the sphere, and the inverse [K, S] of evaluating the harmonics there; float64."""
    count = 64
    row = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * row + 1) / count
    angle = math.pi * (3 - math.sqrt(5)) * row
    radius = (1 - z * z).sqrt()
    directions = torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)
    return directions, torch.linalg.pinv(sh_basis(directions, degree))
