"""Gaussians in world space -> ellipses on the screen, in plain differentiable torch.

Follows EWA splatting (Zwicker et al. 2001) as 3DGS uses it, with gsplat 1.5.3's culling rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.render.base import MAX_EXTENT_SIGMA, MIN_ALPHA, RenderSettings
from learn2splat.scene.gaussians import GaussianScene, opacities, scales
from learn2splat.scene.harmonics import sh_basis
from learn2splat.scene.rotation import rotation_matrices

JACOBIAN_MARGIN = 0.15
"""The perspective Jacobian is evaluated no further outside the image than this share of its size."""


@dataclass(frozen=True)
class Ellipses:
    """N Gaussians as one camera sees them.

    Args:
        means2d_px: [N, 2] projected centres.
        conics: [N, 3] inverse covariance (xx, xy, yy), 1/px^2.
        opacities: [N].
        colors: [N, 3], floored at 0.
        depths: [N] camera z, world units.
        half_widths_px: [N, 2] int64 half-widths of the screen box; 0 where the Gaussian is not drawn.
    """

    means2d_px: Tensor
    conics: Tensor
    opacities: Tensor
    colors: Tensor
    depths: Tensor
    half_widths_px: Tensor


def project(
    scene: GaussianScene,
    K: Tensor,
    cam_from_world: Tensor,
    size: tuple[int, int],
    settings: RenderSettings,
    degree: int,
) -> Ellipses:
    """Project all Gaussians into one camera.

    Args:
        scene: N Gaussians.
        K: [3, 3] intrinsics in pixels.
        cam_from_world: [4, 4].
        size: (width, height) in pixels.
        settings: constants of the rasterisation.
        degree: harmonics up to this degree are used.
    """
    rotation, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
    x, y, z = (scene.means @ rotation.T + translation).unbind(-1)
    in_range = (z >= settings.near) & (z <= settings.far)
    z_safe = torch.where(in_range, z, torch.ones_like(z))  # keeps 0 * inf out of the gradients of culled rows
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    means2d_px = torch.stack([fx * x / z_safe + cx, fy * y / z_safe + cy], dim=-1)

    cov2d = _screen_covariance(scene, rotation, (x, y, z_safe), K, size)
    cov_xx, cov_xy, cov_yy = cov2d[:, 0, 0] + settings.eps2d, cov2d[:, 0, 1], cov2d[:, 1, 1] + settings.eps2d
    determinant = cov_xx * cov_yy - cov_xy * cov_xy
    invertible = determinant > 0
    divisor = torch.where(invertible, determinant, torch.ones_like(determinant))
    conics = torch.stack([cov_yy, -cov_xy, cov_xx], dim=-1) / divisor[:, None]
    opacity = opacities(scene)

    with torch.no_grad():
        extent = (2 * (opacity / MIN_ALPHA).clamp_min(1).log()).sqrt().clamp_max(MAX_EXTENT_SIGMA)
        diagonal = torch.stack([cov_xx, cov_yy], dim=-1).clamp_min(0)
        half_widths = (extent[:, None] * diagonal.sqrt()).ceil()
        limits = torch.tensor(size, dtype=half_widths.dtype, device=half_widths.device)
        on_screen = ((means2d_px + half_widths > 0) & (means2d_px - half_widths < limits)).all(dim=-1)
        drawn = in_range & invertible & (opacity >= MIN_ALPHA) & on_screen & (half_widths > 0).all(dim=-1)
        half_widths = torch.where(drawn[:, None], half_widths, torch.zeros_like(half_widths)).long()

    center_world = -rotation.T @ translation
    offsets = scene.means - center_world
    distances = offsets.norm(dim=-1, keepdim=True)
    directions = offsets / torch.where(distances > 0, distances, torch.ones_like(distances))
    basis = sh_basis(directions, degree)
    colors = (torch.einsum("nk,nkc->nc", basis, scene.sh[:, : basis.shape[-1]]) + 0.5).clamp_min(0)
    return Ellipses(means2d_px, conics, opacity, colors, z, half_widths)


def _screen_covariance(
    scene: GaussianScene, rotation: Tensor, camera_xyz: tuple[Tensor, Tensor, Tensor], K: Tensor, size: tuple[int, int]
) -> Tensor:
    """[N, 2, 2] covariance in px^2, without the low-pass."""
    x, y, z = camera_xyz
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    width, height = size
    margin_x, margin_y = JACOBIAN_MARGIN * width / fx, JACOBIAN_MARGIN * height / fy
    slope_x = _clamp(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    slope_y = _clamp(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * slope_x / z, zero, fy / z, -fy * slope_y / z], dim=-1).view(-1, 2, 3)
    factor = jacobian @ rotation @ (rotation_matrices(scene.quats) * scales(scene)[:, None, :])
    return factor @ factor.mT


def _clamp(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value, low), high)
