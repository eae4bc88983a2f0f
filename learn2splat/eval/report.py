"""A report of one run: a single HTML file with curves and pictures, readable offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from learn2splat.eval.metrics import ViewMetrics
from learn2splat.page import ACCENT, data_url, jpeg, svg, write_page

ERROR_GAIN = 4.0
MAX_FIGURES = 24
"""Views that a report shows at most."""


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    config: str,
) -> None:
    """Write a self-contained HTML file.

    Args:
        path: where to.
        summary: what goes to ``summary.json``.
        metrics: one row per evaluation.
        figures: of `figure`.
        config: the configuration as text.
    """
    values = {"summary": summary, "metrics": metrics, "figures": figures, "config": config, "curves": curves(metrics)}
    write_page(path, "eval/report.html.j2", **values)


def figure(name: str, photo: Tensor, view: ViewMetrics) -> dict[str, Any]:
    """What the report shows of a view; pictures as JPEG.

    Args:
        name: of the photo.
        photo: [H, W, 3] in 0..1.
        view: with the rendering.
    """
    error = ((view.image - photo).abs() * ERROR_GAIN).clamp(0, 1)
    pictures = {"photo": photo, "render": view.image, "error": error}
    shown = {kind: data_url(jpeg(picture)) for kind, picture in pictures.items()}
    return {"name": name, "psnr": view.psnr, "ssim": view.ssim, **shown}


def curves(metrics: Sequence[Mapping[str, Any]]) -> Markup:
    """PSNR and SSIM against steps and seconds, as inline SVG."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    panels = [("step", "psnr", "PSNR (dB)"), ("seconds", "psnr", "PSNR (dB)"), ("step", "ssim", "SSIM")]
    for axis, (x, y, label) in zip(axes, panels, strict=True):
        axis.plot([row[x] for row in metrics], [row[y] for row in metrics], marker="o", markersize=3, color=ACCENT)
        axis.set_xlabel("optimisation seconds" if x == "seconds" else "steps")
        axis.set_ylabel(label)
        axis.set_xscale("symlog", linthresh=10 if x == "step" else 0.1)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    return svg(figure)
