"""Which Gaussians lie next to each other."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor


def nearest_neighbours(means: Tensor, count: int) -> Tensor:
    """[N, count] int32 rows of the nearest other Gaussians, nearest first.

    With fewer than ``count`` others, the nearest ones repeat; a single Gaussian is its own neighbour.

    Args:
        means: [N, 3] centres, world units.
        count: neighbours per Gaussian.
    """
    total = means.shape[0]
    if total <= 1:
        return torch.zeros(total, count, dtype=torch.int32, device=means.device)
    points = means.detach().cpu().double().numpy()
    wanted = min(count, total - 1)
    found = np.asarray(cKDTree(points).query(points, k=wanted + 1, workers=-1)[1])
    rows = np.arange(total)[:, None]
    # among coincident points the row itself need not come first: move it to the front, then drop it
    order = np.argsort(found != rows, axis=1, kind="stable")
    others = np.take_along_axis(found, order, axis=1)[:, 1:]
    repeated = others[:, np.arange(count) % wanted]
    return torch.from_numpy(repeated.astype(np.int32)).to(means.device)


def neighbour_distances(means: Tensor, neighbours: Tensor) -> Tensor:
    """[N, k] distances to the ``neighbours`` [N, k], world units."""
    return (means[neighbours.long()] - means[:, None]).norm(dim=-1)
