"""The size of a pixel at each Gaussian: the natural unit of its position."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.cameras import Cameras


def pixel_footprint_world(means: Tensor, cameras: Cameras, near: float) -> Tensor:
    """[N] median over the views that look at it of depth / focal length, world units.

    Gaussians that no view looks at get the median of all others.

    Args:
        means: [N, 3] centres, world units.
        cameras: V views.
        near: views whose camera depth is below this do not count, world units.
    """
    K, cam_from_world = cameras.K.to(means), cameras.cam_from_world.to(means)
    in_camera = torch.einsum("vij,nj->vni", cam_from_world[:, :3, :3], means) + cam_from_world[:, None, :3, 3]
    depth = in_camera[..., 2]
    pixels = torch.einsum("vij,vnj->vni", K, in_camera)
    safe = depth.clamp_min(near)
    size = torch.stack([cameras.widths, cameras.heights], dim=-1).to(means)[:, None]
    inside = ((pixels[..., :2] / safe[..., None]).sub(size / 2).abs() <= size / 2).all(dim=-1) & (depth >= near)
    focal = torch.sqrt(K[:, 0, 0] * K[:, 1, 1])[:, None]
    footprint = torch.where(inside, depth / focal, torch.full_like(depth, torch.nan)).nanmedian(dim=0).values
    seen = ~footprint.isnan()
    fallback = footprint[seen].median() if bool(seen.any()) else means.new_tensor(1.0)
    return torch.where(seen, footprint, fallback)
