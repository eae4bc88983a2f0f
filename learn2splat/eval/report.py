"""A report of one run: a single HTML file with curves, pictures and a film, readable offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from learn2splat.eval.metrics import Scores
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
        image: [H, W, 3] the rendering in 0..1.
        depth: [H, W] of the rendering, world units; NaN where there is none.
        scores: metric -> value, or None.
    """

    name: str
    photo: Tensor
    image: Tensor
    depth: Tensor
    scores: Scores


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    scene: GaussianScene,
    film: bytes,
    config: str,
) -> None:
    """Write a self-contained HTML file.

    Args:
        path: where to.
        summary: what goes to ``summary.json``.
        metrics: one row per evaluation.
        figures: of `figure`.
        scene: whose parameters are counted.
        film: an MP4 file of it.
        config: the configuration as text.
    """
    write_page(
        path,
        "eval/report.html.j2",
        summary=summary,
        metrics=metrics,
        views=figures,
        histograms=histograms(scene),
        film=data_url(film, "video/mp4"),
        config=config,
        curves=curves(metrics),
        gain=ERROR_GAIN,
    )


def figure(view: ReportView, views: int) -> dict[str, Any]:
    """What the report shows of a view, in pictures that are the smaller the more ``views`` there are."""
    pixels = PIXELS / views / (2 + 3 * MAPS_SHARE)
    maps = {
        "error": error_picture(view.image, view.photo),
        "FLIP": flip_picture(view.image, view.photo),
        "depth": depth_picture(view.depth),
    }
    return {
        "name": view.name,
        "scores": view.scores,
        "photo": data_url(jpeg(shrunk(view.photo, pixels))),
        "render": data_url(jpeg(shrunk(view.image, pixels))),
        "maps": {name: data_url(jpeg(shrunk(picture, MAPS_SHARE * pixels))) for name, picture in maps.items()},
    }
