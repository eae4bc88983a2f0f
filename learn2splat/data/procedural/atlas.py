"""All textures of a world in one mip-mapped image, so that one look-up serves every surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST = 4


class Atlas:
    """Tileable textures [n, n, 5] (linear RGB, surface slope along u and v) with their mip pyramids.

    Args:
        textures: square arrays; their sides are powers of two, at least 8.
    """

    def __init__(self, textures: Sequence[NDArray[np.float32]]) -> None:
        sides = [texture.shape[0] for texture in textures]
        side = max(sides)
        width = side + side // 2 + 4
        spans = [n + 2 * int(np.log2(n)) + 2 for n in sides]
        self.image = torch.zeros((5, sum(spans), width))
        self.levels = torch.tensor([int(np.log2(n // _SMALLEST)) for n in sides]).float()
        self.sides = torch.tensor(sides).float()
        depth = int(self.levels.max()) + 1
        self.corner = torch.zeros((len(textures) * depth, 2))
        self.depth = depth
        top = 0
        for i, texture in enumerate(textures):
            self._pack(i, torch.from_numpy(np.ascontiguousarray(np.moveaxis(texture, 2, 0))).float(), top)
            top += spans[i]

    def _pack(self, index: int, level: Tensor, top: int) -> None:
        side = level.shape[-1]
        x, y = 0, top
        for step in range(int(self.levels[index]) + 1):
            n = level.shape[-1]
            self.image[:, y + 1 : y + n + 1, x + 1 : x + n + 1] = level
            self.image[:, y + 1 : y + n + 1, x] = level[:, :, -1]
            self.image[:, y + 1 : y + n + 1, x + n + 1] = level[:, :, 0]
            self.image[:, y, x : x + n + 2] = self.image[:, y + n, x : x + n + 2]
            self.image[:, y + n + 1, x : x + n + 2] = self.image[:, y + 1, x : x + n + 2]
            self.corner[index * self.depth + step] = torch.tensor([x + 1.0, y + 1.0])
            x, y = (side + 2, top) if step == 0 else (x, y + n + 2)
            pairs = level.view(5, n // 2, 2, n // 2, 2)
            level = (pairs[:, :, 0, :, 0] + pairs[:, :, 0, :, 1] + pairs[:, :, 1, :, 0] + pairs[:, :, 1, :, 1]) * 0.25

    def _level(self, texture: Tensor, level: Tensor, side: Tensor, u: Tensor, v: Tensor) -> Tensor:
        corner = self.corner.index_select(0, texture * self.depth + level.long()).T
        scale = side * torch.exp2(-level)
        height, width = self.image.shape[1:]
        x = (corner[0] + u * scale) * (2.0 / width) - 1.0
        y = (corner[1] + v * scale) * (2.0 / height) - 1.0
        grid = torch.stack([x, y], -1)[None, :, None]
        return F.grid_sample(self.image[None], grid, mode="bilinear", align_corners=False)[0, :, :, 0]

    def sample(self, texture: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
        """Trilinear look-up.

        Args:
            texture: [n] int64; u, v: [n] in repeats; footprint: [n] sample spacing in repeats.

        Returns:
            [5, n].
        """
        side = self.sides.index_select(0, texture)
        top = self.levels.index_select(0, texture)
        lod = torch.minimum(torch.log2((footprint * side).clamp_min(1.0)), top)
        low = lod.floor()
        u, v = u - u.floor(), v - v.floor()
        fine = self._level(texture, low, side, u, v)
        coarse = self._level(texture, torch.minimum(low + 1, top), side, u, v)
        return fine + (coarse - fine) * (lod - low)
