"""How sharp a photo is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.data.photos import area_filter

NOISE = 0.1
"""Variance, in squared grey levels, that is next to nothing: a photo of one colour has a sharpness of 1."""


def sharpness(photo: Tensor, long_side: int) -> float:
    """By which factor a blur of one pixel lowers the variance of the Laplacian.

    What is blurred already loses little, whatever it shows: the variance itself differs more between sharp photos of
    different things than between a sharp photo and a blurred one.

    Args:
        photo: uint8 [H, W, 3].
        long_side: size in pixels at which it is looked at, at most its own.

    Returns:
        1 for a photo without structure; about 10 to 50 for sharp ones.

    Source: the variance of the Laplacian (Pech-Pacheco et al. 2000) and re-blurring (Crete et al. 2007).
    """
    height, width = photo.shape[:2]
    scale = long_side / max(height, width)
    full = cv2.cvtColor(photo.numpy(), cv2.COLOR_RGB2GRAY)
    grey = area_filter(np.asarray(full, dtype=np.float32), max(1, round(width * scale)), max(1, round(height * scale)))
    blurred = np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), dtype=np.float32)
    return (_detail(grey) + NOISE) / (_detail(blurred) + NOISE)


def _detail(grey: NDArray[np.float32]) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
