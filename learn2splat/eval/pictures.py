"""Pictures that explain a rendering: its errors and its depth in colours."""

from __future__ import annotations

import matplotlib
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from learn2splat.eval.metrics import flip_map

ERROR_GAIN = 4.0
"""Differences are shown this many times as bright."""


def error_picture(image: Tensor, photo: Tensor) -> Tensor:
    """[H, W, 3] absolute difference of [H, W, 3] pictures, amplified."""
    return ((image - photo).abs() * ERROR_GAIN).clamp(0, 1)


def flip_picture(image: Tensor, photo: Tensor) -> Tensor:
    """[H, W, 3] the FLIP of [H, W, 3] pictures, from black (0) to pale yellow (1)."""
    return coloured(flip_map(image, photo), "magma")


def depth_picture(depth: Tensor) -> Tensor:
    """[H, W, 3] of a depth [H, W]: near red, far blue, even in 1 / depth; black where it is NaN."""
    near = 1 / depth
    known = near[near.isfinite()].double()
    if len(known) == 0:
        return torch.zeros(*depth.shape, 3)
    low, high = (float(known.cpu().kthvalue(1 + int(share * (len(known) - 1))).values) for share in (0.02, 0.98))
    shade = ((near - low) / max(high - low, 1e-12)).clamp(0, 1)
    return torch.where(near.isfinite()[..., None], coloured(shade.nan_to_num(0), "turbo"), 0.0)


def coloured(values: Tensor, colours: str) -> Tensor:
    """[H, W, 3] of values [H, W] in 0..1, by a colour map of matplotlib."""
    return torch.from_numpy(matplotlib.colormaps[colours](values.cpu().numpy())[..., :3]).float()


def shrunk(picture: Tensor, pixels: float) -> Tensor:
    """A picture [H, W, 3] area-filtered to about ``pixels`` of them; a smaller one stays as it is."""
    height, width = picture.shape[:2]
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    if scale == 1.0:
        return picture
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    planes = picture.permute(2, 0, 1)[None]
    return interpolate(planes, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
