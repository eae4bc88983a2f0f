"""From radiance to an 8-bit photograph: exposure, vignette, tone curve, noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learn2splat.data.procedural.render import Picture


def _auto_exposure(pictures: Sequence[Picture]) -> float:
    """Factor that puts the scene's mid-tones where a camera puts them, without blowing out most highlights."""
    bright = torch.cat([picture.radiance[::3, ::3].mean(-1).flatten() for picture in pictures]).clamp_min(1e-4)
    middle = float(torch.exp(torch.log(bright).mean()))
    high = float(torch.quantile(bright[:: max(1, len(bright) // 100_000)], 0.97))
    return min(0.24 / middle, 0.95 / high)


def _tone(linear: Tensor) -> Tensor:
    """sRGB with a soft shoulder above 0.7, as cameras have."""
    bent = torch.where(linear > 0.7, 0.7 + 0.3 * (1 - torch.exp(-(linear - 0.7) / 0.3)), linear).clamp(0, 1)
    return torch.where(bent <= 0.0031308, bent * 12.92, 1.055 * bent.clamp_min(1e-6) ** (1 / 2.4) - 0.055)


def develop(
    pictures: Sequence[Picture], rng: np.random.Generator, *, exposure: float, vignette: float, noise: float
) -> list[Tensor]:
    """Photographs, uint8 [H, W, 3].

    Args:
        pictures: linear radiance of each view.
        rng: draws white balance, exposure of each view and sensor noise.
        exposure: standard deviation over views of the logarithm of exposure.
        vignette: share of light lost in the corners, 0..1.
        noise: standard deviation of sensor noise at mid-grey, in 8-bit levels.
    """
    gain = _auto_exposure(pictures) * np.exp(rng.normal(0, 0.15))
    balance = torch.from_numpy(np.exp(rng.normal(0, 0.04, 3))).float()
    vignette = vignette * rng.uniform(0.3, 1.0)
    contrast = rng.uniform(1.0, 1.3)
    photos = []
    for picture in pictures:
        height, width = picture.alpha.shape
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        falloff = 1 - vignette * 0.5 * (x * x + y * y)
        light = picture.radiance * balance * falloff[..., None] * float(gain * np.exp(rng.normal(0, exposure)))
        light = light.clamp_min(0) ** float(contrast) * float(0.4 ** (1 - contrast))
        grain = torch.from_numpy(rng.standard_normal((height, width, 3), dtype=np.float32))
        levels = _tone(light) * 255
        levels = levels + grain * noise * (0.5 + 0.5 * (levels / 118).clamp_max(1.5))
        photos.append((levels + 0.5).clamp(0, 255).to(torch.uint8))
    return photos
