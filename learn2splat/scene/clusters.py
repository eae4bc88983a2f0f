"""A coarse partition of the Gaussians: the long-range path of learned optimizers."""

from __future__ import annotations

import torch
from torch import Tensor


def clusters(means: Tensor, count: int) -> Tensor:
    """[N] int64, the nearest of up to ``count`` landmarks that are spread by farthest-point choice.

    The partition follows the points when they are moved, turned, scaled or permuted (but for ties).

    Args:
        means: [N, 3] centres, world units.
        count: number of landmarks.
    """
    total = means.shape[0]
    if total == 0:
        return torch.zeros(0, dtype=torch.int64, device=means.device)
    points = means.detach()
    nearest = torch.full((total,), torch.inf, dtype=points.dtype, device=points.device)
    owner = torch.zeros(total, dtype=torch.int64, device=points.device)
    landmark = (points - points.mean(dim=0)).square().sum(dim=-1).argmax()
    for index in range(min(count, total)):
        distance = (points - points[landmark]).square().sum(dim=-1)
        closer = distance < nearest
        owner = torch.where(closer, index, owner)
        nearest = torch.where(closer, distance, nearest)
        landmark = nearest.argmax()
    return owner
