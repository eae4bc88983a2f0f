"""Plots of one run as inline SVG: curves of its evaluations, histograms of its scene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learn2splat.page import ACCENT, svg
from learn2splat.scene.gaussians import GaussianScene, opacities, scales, sh0_to_rgb

CURVES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "flip": "FLIP", "lpips": "LPIPS", "loss": "loss"}
"""Column of ``metrics.jsonl`` -> label; a column without numbers is left out."""
TIMES = {"step": ("steps", 10.0), "seconds": ("optimisation seconds", 0.1)}
"""Column -> (label, where the logarithmic part of the axis begins)."""
BINS = 60


def curves(metrics: Sequence[Mapping[str, Any]]) -> Markup:
    """Every metric against steps (above) and seconds (below)."""
    shown = [name for name in CURVES if any(_is_number(row.get(name)) for row in metrics)]
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(len(TIMES), len(shown), sharey="col", squeeze=False)
    for line, (time, (label, linear)) in zip(axes, TIMES.items(), strict=True):
        for axis, name in zip(line, shown, strict=True):
            points = [(row[time], row[name]) for row in metrics if _is_number(row.get(name))]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=ACCENT)
            axis.set_xlabel(label)
            if points[-1][0] > linear:
                axis.set_xscale("symlog", linthresh=linear)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
    for axis, name in zip(axes[0], shown, strict=True):
        axis.set_title(CURVES[name], fontsize="medium")
    return svg(figure)


def histograms(scene: GaussianScene) -> Markup:
    """How the Gaussians' opacities, sizes, elongations and base colours are distributed; empty without Gaussians."""
    if len(scene) == 0:
        return Markup("")
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    opacity, size, elongation, colour = figure.subplots(1, 4)
    sides = scales(scene).double().cpu().numpy()
    opacity.hist(opacities(scene).double().cpu().numpy(), bins=BINS, range=(0, 1), histtype="stepfilled", color=ACCENT)
    opacity.set_xlabel("opacity")
    _logarithmic(size, sides.max(axis=1))
    size.set_xlabel("largest standard deviation (world units)")
    _logarithmic(elongation, sides.max(axis=1) / sides.min(axis=1).clip(1e-30))
    elongation.set_xlabel("largest / smallest standard deviation")
    base = sh0_to_rgb(scene.sh[:, 0]).double().clamp(0, 1).cpu().numpy()
    for channel, name in enumerate(("#c0392b", "#1e8449", ACCENT)):
        colour.hist(base[:, channel], bins=BINS, range=(0, 1), histtype="step", color=name)
    colour.set_xlabel("base colour: red, green, blue")
    opacity.set_ylabel("Gaussians")
    for axis in (opacity, size, elongation, colour):
        axis.grid(alpha=0.3)
    return svg(figure)


def _logarithmic(axis: Axes, values: np.ndarray) -> None:
    logarithms = np.log10(values.clip(1e-30, 1e30))
    low, high = np.percentile(logarithms, [0.5, 99.5])
    axis.hist(values, bins=list(np.logspace(low - 0.1, high + 0.1, BINS + 1)), histtype="stepfilled", color=ACCENT)
    axis.set_xscale("log")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
