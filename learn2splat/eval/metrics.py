"""Image metrics: PSNR and SSIM, on RGB in 0..1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.losses import photometric
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of [H, W, 3] images in 0..1; infinite for equal images."""
    error = float((image.double() - target.double()).square().mean())
    return math.inf if error == 0 else -10.0 * math.log10(error)


def ssim(image: Tensor, target: Tensor) -> float:
    """Structural similarity of [H, W, 3] images in 0..1 (Wang et al. 2004), as 3DGS computes it."""
    return float(photometric(image[None], target[None], 1.0)[1])


@dataclass(frozen=True)
class ViewMetrics:
    """Metrics of one view; ``image`` [H, W, 3] is the rendering, clamped to 0..1."""

    view: int
    psnr: float
    ssim: float
    image: Tensor


def evaluate_each(scene: GaussianScene, scene_loss: SceneLoss, views: Sequence[int]) -> Iterator[ViewMetrics]:
    """Render ``views`` one by one, clamp to 0..1 as a viewer would, and compare with the photos."""
    for view in views:
        cameras = scene_loss.cameras.take([view])
        with torch.no_grad():
            rendered = scene_loss.renderer.render(scene, cameras, background=scene_loss.background)
        image, target = rendered.image[0].clamp(0, 1), scene_loss.photos([view])[0]
        yield ViewMetrics(view, psnr(image, target), ssim(image, target), image.cpu())


def evaluate(scene: GaussianScene, scene_loss: SceneLoss, views: Sequence[int]) -> list[ViewMetrics]:
    """`evaluate_each` with all pictures at once."""
    return list(evaluate_each(scene, scene_loss, views))


def means(views: Sequence[ViewMetrics]) -> tuple[float, float]:
    """Mean PSNR and SSIM over views."""
    return mean_scores((view.psnr, view.ssim) for view in views)


def mean_scores(scores: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Mean of pairs (PSNR, SSIM)."""
    all_psnr, all_ssim = zip(*scores, strict=True)
    return sum(all_psnr) / len(all_psnr), sum(all_ssim) / len(all_ssim)
