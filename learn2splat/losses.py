"""What the inner loop minimises: (1 - w) L1 + w (1 - SSIM), as 3DGS does (Kerbl et al. 2023, eq. 7).

Images are float RGB [V, H, W, 3]; targets lie in 0..1, renderings may exceed 1. L1 and SSIM are means over pixels and
channels of one view; the loss is the mean over views. SSIM (Wang et al. 2004) uses the 11 x 11 Gaussian window with
sigma 1.5, zero padding, C1 = 0.01^2 and C2 = 0.03^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from learn2splat import native
from learn2splat.native.photometric import photometric as native_photometric

WINDOW = 11
WINDOW_SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


@dataclass(frozen=True)
class LossTerms:
    """A loss with its gradient and parts.

    Args:
        loss: the scalar that is minimised (mean over views).
        l1: [V] float64.
        ssim: [V] float64.
        image_gradient: [V, H, W, 3] derivative of ``loss`` by the image.
    """

    loss: float
    l1: Tensor
    ssim: Tensor
    image_gradient: Tensor


class ImageLoss(Protocol):
    """A loss between renderings and photos that comes with its own gradient."""

    def __call__(self, image: Tensor, target: Tensor) -> LossTerms:
        """Compare [V, H, W, 3] with [V, H, W, 3]."""
        ...


class PhotometricLoss:
    """(1 - ssim_weight) L1 + ssim_weight (1 - SSIM).

    Args:
        ssim_weight: in 0..1; 3DGS uses 0.2.
    """

    def __init__(self, ssim_weight: float = 0.2) -> None:
        if not 0.0 <= ssim_weight <= 1.0:
            raise ValueError(f"ssim_weight is {ssim_weight}; it must lie in 0..1")
        self.ssim_weight = ssim_weight

    def __call__(self, image: Tensor, target: Tensor) -> LossTerms:
        if image.device.type == "cpu" and image.dtype == torch.float32 and native.library() is not None:
            l1, ssim, gradient = native_photometric(image, target, self.ssim_weight, want_grad=True)
            assert gradient is not None
        else:
            l1, ssim, gradient = photometric(image, target, self.ssim_weight)
        loss = (1 - self.ssim_weight) * float(l1.mean()) + self.ssim_weight * (1 - float(ssim.mean()))
        return LossTerms(loss, l1, ssim, gradient)


def photometric(image: Tensor, target: Tensor, ssim_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """L1 [V], SSIM [V] and the gradient of the mean loss by the image, in torch on any device and in any precision."""
    image, target = image.detach(), target.to(image)
    difference = image - target
    l1 = difference.abs().mean(dim=(1, 2, 3), dtype=torch.float64)
    x, y = image.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    mu_x, mu_y, xx, yy, xy = (blur(part) for part in (x, y, x * x, y * y, x * y))
    a1, a2 = 2 * mu_x * mu_y + C1, 2 * (xy - mu_x * mu_y) + C2
    b1, b2 = mu_x.square() + mu_y.square() + C1, xx - mu_x.square() + yy - mu_y.square() + C2
    similarity = a1 * a2 / (b1 * b2)
    by_xx = -similarity / b2
    by_xy = 2 * a1 / (b1 * b2)
    by_mu = 2 * mu_y * a2 / (b1 * b2) - 2 * mu_x * similarity / b1 - 2 * mu_x * by_xx - mu_y * by_xy
    by_x = blur(by_mu) + 2 * x * blur(by_xx) + y * blur(by_xy)  # the window is symmetric: blur is its own transpose
    gradient = (1 - ssim_weight) * difference.sign() - ssim_weight * by_x.permute(0, 2, 3, 1)
    return l1, similarity.mean(dim=(1, 2, 3), dtype=torch.float64), gradient / image.numel()


def blur(planes: Tensor) -> Tensor:
    """SSIM's window over [V, C, H, W], zero padded: two one-dimensional passes."""
    views, channels, height, width = planes.shape
    window = _window(planes.dtype, planes.device)
    flat = planes.reshape(views * channels, 1, height, width)
    flat = torch.nn.functional.conv2d(flat, window[None, None, None, :], padding=(0, WINDOW // 2))
    flat = torch.nn.functional.conv2d(flat, window[None, None, :, None], padding=(WINDOW // 2, 0))
    return flat.view(views, channels, height, width)


@cache
def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * WINDOW_SIGMA**2))
    return (weights / weights.sum()).to(dtype=dtype, device=device)
