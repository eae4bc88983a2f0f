"""Image metrics on RGB in 0..1: PSNR, SSIM, FLIP, and LPIPS where its weights are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learn2splat.eval.lpips import Lpips, NoWeightsError
from learn2splat.losses import photometric
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss

Metric = Callable[[Tensor, Tensor], float]
"""(rendering, photo), both [H, W, 3] in 0..1 -> number; NaN where it has no meaning."""

Scores = Mapping[str, float | None]
"""Metric -> value, None for one that cannot be had."""


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images [..., 3] in 0..1; infinite for equal images."""
    error = float((image.double() - target.double()).square().mean())
    return math.inf if error == 0 else -10.0 * math.log10(error)


def ssim(image: Tensor, target: Tensor) -> float:
    """Structural similarity of [H, W, 3] images in 0..1 (Wang et al. 2004), as 3DGS computes it."""
    return float(photometric(image[None], target[None], 1.0)[1])


def flip(image: Tensor, target: Tensor) -> float:
    """Mean of `flip_map`, in 0..1; 0 for equal images."""
    return float(flip_map(image, target).mean(dtype=torch.float64))


def flip_map(image: Tensor, target: Tensor) -> Tensor:
    """FLIP (Andersson et al. 2020): the difference that an eye sees when two pictures alternate.

    Computed by the authors' package at its default of 67 pixels per degree of the visual field.

    Args:
        image: [H, W, 3] sRGB in 0..1.
        target: [H, W, 3], the reference.

    Returns:
        [H, W] float32 in 0..1, on the CPU.
    """
    from flip_evaluator import evaluate as evaluate_flip

    pair = [np.ascontiguousarray(picture.float().cpu().numpy()) for picture in (target, image)]
    return torch.from_numpy(evaluate_flip(*pair, "LDR", applyMagma=False, computeMeanError=False)[0][..., 0])


PIXELWISE: Mapping[str, Metric] = {"psnr": psnr, "ssim": ssim}
"""The quick ones."""


def all_metrics(lpips_weights: str | Path | None) -> tuple[dict[str, Metric | None], list[str]]:
    """Every metric by its name, None for one that cannot be had; and why not, one sentence each.

    Args:
        lpips_weights: file that `Lpips` reads.

    Raises:
        BadWeightsError: the file is there, and holds something else.
    """
    metrics: dict[str, Metric | None] = {**PIXELWISE, "flip": flip, "lpips": None}
    try:
        metrics["lpips"] = Lpips.load(lpips_weights)
    except NoWeightsError as error:
        return metrics, [str(error)]
    return metrics, []


@dataclass(frozen=True)
class ViewMetrics:
    """Metrics of one view.

    Args:
        view: its index.
        scores: metric -> value, or None.
        image: [H, W, 3] the rendering, clamped to 0..1, on the CPU.
    """

    view: int
    scores: Scores
    image: Tensor


def evaluate(
    scene: GaussianScene,
    scene_loss: SceneLoss,
    views: Sequence[int],
    metrics: Mapping[str, Metric | None] = PIXELWISE,
) -> Iterator[ViewMetrics]:
    """Render ``views``, clamp to 0..1 as a viewer would, and compare with the photos; one view is held at a time.

    PSNR is over the pixels that masks do not hide; the other metrics see black in their place in both pictures.
    """
    for view in views:
        cameras = scene_loss.cameras.take([view])
        with torch.no_grad():
            rendered = scene_loss.renderer.render(scene, cameras, background=scene_loss.background)
        images, target = rendered.image.clamp(0, 1), scene_loss.photos([view])[0]
        shown, used = scene_loss.masked(images, [view])[0], scene_loss.used([view])
        scores = {name: None if metric is None else metric(shown, target) for name, metric in metrics.items()}
        if used is not None and "psnr" in scores:
            scores["psnr"] = psnr(shown[used[0]], target[used[0]])
        yield ViewMetrics(view, scores, images[0].cpu())


def means(scores: Sequence[Scores]) -> dict[str, float | None]:
    """Metric -> mean over views, None where a view has none; ``scores`` has a mapping for each view."""
    columns = {name: [view[name] for view in scores] for name in scores[0]}
    return {
        name: None if None in values else sum(value for value in values if value is not None) / len(scores)
        for name, values in columns.items()
    }
