"""Captures with smaller photos, masks and depth maps, held in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.masks import LEAST_SHARE


@dataclass(frozen=True)
class PhotoStack:
    """Photos in memory, uint8 [H, W, 3] each, or masks, bool [H, W], or depth maps, float32 [H, W]."""

    photos: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, view: int) -> Tensor:
        return self.photos[view]


def shrink(scene: SceneData, long_side: int) -> SceneData:
    """The same capture with photos of at most ``long_side`` pixels, area-filtered; masks hide what they touch.

    Depths are those of the nearest old pixels: a mean over an edge would be where nothing is.
    """
    widths, heights, photos, masks, depths = [], [], [], [], []
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
        if scene.masks is not None:
            hidden = (~scene.masks[view]).float()[None, None]
            masks.append(torch.nn.functional.interpolate(hidden, size=size, mode="area")[0, 0] <= LEAST_SHARE)
        if scene.depths is not None:
            depth = scene.depths[view][None, None]
            depths.append(torch.nn.functional.interpolate(depth, size=size, mode="nearest-exact")[0, 0])
        heights.append(size[0])
        widths.append(size[1])
    cameras = scene.cameras.resized(torch.tensor(widths), torch.tensor(heights))
    return replace(
        scene,
        cameras=cameras,
        photos=PhotoStack(tuple(photos)),
        masks=None if scene.masks is None else PhotoStack(tuple(masks)),
        depths=None if scene.depths is None else PhotoStack(tuple(depths)),
    )
