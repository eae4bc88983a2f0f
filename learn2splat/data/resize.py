"""Captures with smaller photos, held in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learn2splat.data.base import SceneData


@dataclass(frozen=True)
class PhotoStack:
    """Photos in memory, uint8 [H, W, 3] each."""

    photos: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, view: int) -> Tensor:
        return self.photos[view]


def shrink(scene: SceneData, long_side: int) -> SceneData:
    """The same capture with photos of at most ``long_side`` pixels, area-filtered."""
    widths, heights, photos = [], [], []
    for view in range(len(scene.cameras)):
        photo = scene.photos[view]
        height, width = photo.shape[:2]
        scale = min(1.0, long_side / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size != (height, width):
            planes = photo.permute(2, 0, 1)[None].float()
            small = torch.nn.functional.interpolate(planes, size=size, mode="area")[0].permute(1, 2, 0)
            photo = small.round().clamp(0, 255).byte().contiguous()
        photos.append(photo)
        heights.append(size[0])
        widths.append(size[1])
    cameras = scene.cameras.resized(torch.tensor(widths), torch.tensor(heights))
    return replace(scene, cameras=cameras, photos=PhotoStack(tuple(photos)))
