"""A report of one run: a single HTML file with curves, pictures and a film, readable offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from learn2splat.eval.metrics import ViewMetrics
from learn2splat.eval.pictures import ERROR_GAIN, depth_picture, error_picture, flip_picture, shrunk
from learn2splat.eval.plots import curves, histograms
from learn2splat.page import data_url, jpeg, write_page
from learn2splat.scene.gaussians import GaussianScene

PIXELS = 8e6
"""Of all pictures of a report together: what keeps it at a few MB, however many views there are."""
MAPS_SHARE = 0.25
"""Pixels of an error or depth map, relative to the photo's: photo and rendering are compared, the maps looked over."""


@dataclass(frozen=True)
class ReportView:
    """One evaluated view.

    Args:
        name: of the photo.
        photo: [H, W, 3] in 0..1.
        depth: [H, W] of the rendering, world units; NaN where there is none.
        metrics: with the rendering.
    """

    name: str
    photo: Tensor
    depth: Tensor
    metrics: ViewMetrics


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    views: Sequence[ReportView],
    scene: GaussianScene,
    film: bytes,
    config: str,
) -> None:
    """Write a self-contained HTML file.

    Args:
        path: where to.
        summary: what goes to ``summary.json``.
        metrics: one row per evaluation.
        views: all are shown, the smaller the more there are.
        scene: whose parameters are counted.
        film: an MP4 file of it.
        config: the configuration as text.
    """
    pixels = PIXELS / max(1, len(views)) / (2 + 3 * MAPS_SHARE)
    write_page(
        path,
        "eval/report.html.j2",
        summary=summary,
        metrics=metrics,
        views=[_shown(view, pixels) for view in views],
        histograms=histograms(scene),
        film=data_url(film, "video/mp4"),
        config=config,
        curves=curves(metrics),
        gain=ERROR_GAIN,
    )


def _shown(view: ReportView, pixels: float) -> dict[str, Any]:
    """What the template shows of a view, in pictures of about so many pixels."""
    image, photo = view.metrics.image, view.photo
    maps = {
        "error": error_picture(image, photo),
        "FLIP": flip_picture(image, photo),
        "depth": depth_picture(view.depth),
    }
    return {
        "name": view.name,
        "scores": view.metrics.scores,
        "photo": data_url(jpeg(shrunk(photo, pixels))),
        "render": data_url(jpeg(shrunk(image, pixels))),
        "maps": {name: data_url(jpeg(shrunk(picture, MAPS_SHARE * pixels))) for name, picture in maps.items()},
    }
