"""A small convolutional network that looks at pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learn2splat.networks.attention import padded

CELL = 4
"""Pixels along the side of a cell: features, and Gaussians, come one per cell."""
HALF, QUARTER, EIGHTH = 32, 48, 64
"""Channels at 1/2, 1/4 and 1/8 of the resolution."""


class Pyramid(nn.Module):
    """Features of pictures, one per cell, from three resolutions. Local: no statistics of the whole picture.

    Args:
        width: channels of the result.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = _stage(3, HALF), _stage(HALF, QUARTER), _stage(QUARTER, EIGHTH)
        self.merge = nn.Conv2d(HALF + QUARTER + EIGHTH, width, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """[V, width, h, w] from pictures [V, 3, H, W] in 0..1, with ceil(H / CELL) x ceil(W / CELL) cells."""
        fine = self.fine(padded(2 * pictures - 1, CELL))
        middle = self.middle(fine)
        return self.merge(torch.cat([nn.functional.avg_pool2d(fine, 2), middle, doubled(self.coarse, middle)], dim=1))


def cells(pictures: Tensor) -> Tensor:
    """[V, 3, H, W] -> [V, 3 * CELL^2, h, w]: the pixels of each cell."""
    return nn.functional.pixel_unshuffle(padded(pictures, CELL), CELL)


def cell_centers(maps: Tensor) -> Tensor:
    """[h, w, 2] pixel coordinates of the centres of the cells of ``maps`` [..., h, w]."""
    y, x = ((torch.arange(count, device=maps.device, dtype=maps.dtype) + 0.5) * CELL for count in maps.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def halving(inputs: int, outputs: int) -> nn.Sequential:
    """Layers that halve an even resolution; kernels of even width keep features centred on what they describe."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, 2, padding=1), nn.GELU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.GELU()
    )


def doubled(halving: nn.Module, maps: Tensor) -> Tensor:
    """What ``halving`` makes of ``maps`` [V, C, h, w], of any size, at their resolution."""
    half = halving(padded(maps, 2))
    found = nn.functional.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
    return found[..., : maps.shape[2], : maps.shape[3]]


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """`halving`, with weights for features that nobody trains."""
    stage = halving(inputs, outputs)
    for layer in stage:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return stage
