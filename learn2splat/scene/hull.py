"""Points inside the visual hull (Laurentini 1994): where no photo shows the background instead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import PointCloud, SceneData, TransparentPhotos
from learn2splat.scene.random_points import random_points

OPAQUE = 128
"""Alpha of 255 from which on a pixel shows an object."""
CANDIDATES, ROUNDS = 1 << 16, 16
"""Random points that are carved at once, and how often until fewer than are wanted do."""
LEAST_SHARE = 0.01
"""Of the points that are wanted: fewer are no hull, as of photos whose poses contradict each other."""
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def hull_points(data: SceneData, train: Sequence[int], count: int, generator: torch.Generator) -> PointCloud | None:
    """Random points that are in half of the views or more, on opaque pixels of all of them, in their mean colour.

    Args:
        data: the capture.
        train: views that are looked at.
        count: number of points; fewer come back where the hull is small.
        generator: source of all randomness.

    Returns:
        The points, or None when the photos are opaque or their hull is empty.
    """
    if not isinstance(data.photos, TransparentPhotos):
        return None
    black, white = data.photos.over(BLACK), data.photos.over(WHITE)
    if all(torch.equal(black[view], white[view]) for view in (train[0], train[-1])):
        return None
    # what shines through is the difference of white and black
    opaque = [(white[view].int() - black[view].int()).amax(dim=-1) <= 255 - OPAQUE for view in train]
    photos = [black[view] for view in train]
    cameras, found = data.cameras.take(list(train)), list[PointCloud]()
    for _ in range(ROUNDS):
        candidates = random_points(cameras, CANDIDATES, generator).positions_world
        found.append(_carved(cameras, photos, opaque, candidates))
        if sum(map(len, found)) >= count:
            break
    if sum(map(len, found)) < LEAST_SHARE * count:
        return None
    positions = torch.cat([part.positions_world for part in found])[:count]
    return PointCloud(positions, torch.cat([part.colors for part in found])[:count])


def _carved(cameras: Cameras, photos: list[Tensor], opaque: list[Tensor], candidates: Tensor) -> PointCloud:
    """Those of ``candidates`` [P, 3] that many views see and none sees past."""
    points, colors, seen = candidates, torch.zeros_like(candidates), torch.zeros(len(candidates), 1)
    for pose, K, photo, pixels in zip(cameras.cam_from_world, cameras.K, photos, opaque, strict=True):
        local = points @ pose[:3, :3].T + pose[:3, 3]
        column, row, _ = (local @ K.T / local[:, 2:]).floor().long().unbind(-1)
        height, width = pixels.shape
        inside = (local[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
        colors, seen = colors + inside[:, None] * photo[row, column] / 255.0, seen + inside[:, None]
        kept = ~inside | pixels[row, column]
        points, colors, seen = points[kept], colors[kept], seen[kept]
    looked_at = 2 * seen[:, 0] >= len(photos)  # what few views see, few could have carved
    return PointCloud(points[looked_at], (colors / seen)[looked_at])
