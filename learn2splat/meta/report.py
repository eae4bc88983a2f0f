"""A report of a meta-training: a single HTML file, written anew with every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learn2splat.meta.listener import TrainingListener
from learn2splat.meta.progress import Progress, clock, smoothed
from learn2splat.meta.settings import TrainSettings
from learn2splat.page import ACCENT, svg, write_page

MAX_POINTS = 1000
"""Of a curve; a longer one is thinned."""


class ReportWriter(TrainingListener):
    """Keeps the report of a training up to date.

    Args:
        path: where to.
        command: as typed.
        config: the configuration as text.
    """

    def __init__(self, path: Path, command: Sequence[str], config: str) -> None:
        self.path, self.command, self.config = path, list(command), config

    def on_start(self, progress: Progress, settings: TrainSettings) -> None:
        self.progress, self.settings = progress, settings

    def on_saved(self) -> None:
        write_training_report(self.path, self.progress, self.settings, self.command, self.config)


def write_training_report(
    path: Path, progress: Progress, settings: TrainSettings, command: Sequence[str], config: str
) -> None:
    """Write a self-contained HTML file: scores, curves, validations, command and configuration.

    Args:
        path: where to.
        progress: what the training has come to.
        settings: its constants.
        command: as typed.
        config: the configuration as text.
    """
    rows = [row for row in progress.history if "score" in row]
    steps, losses = progress.column("loss")
    smooth = dict(zip(steps, smoothed(losses), strict=True))
    deaths = sum(progress.column("deaths")[1])
    write_page(
        path,
        "meta/report.html.j2",
        progress=progress,
        settings=settings,
        command=command,
        config=config,
        name=path.resolve().parent.name,
        validations=[row | {"loss": smooth.get(row["meta_step"], math.nan)} for row in rows],
        deaths=int(deaths),
        death_share=deaths / max(1, len(steps) * settings.samples),
        time=clock(progress.seconds),
        curves=curves(progress),
    )


def curves(progress: Progress) -> Markup:
    """Loss, validation score and deaths so far against meta-steps, as inline SVG."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, score, deaths = figure.subplots(1, 3)
    steps, losses = progress.column("loss")
    loss.plot(*_thinned(steps, losses), color=ACCENT, linewidth=0.5, alpha=0.35)
    loss.plot(*_thinned(steps, smoothed(losses)), color=ACCENT)
    finite = [value for value in losses if math.isfinite(value)]
    if len(finite) > 1:
        low, high = np.percentile(finite, [1, 99])  # a few windows that ended in a death would hide the others
        loss.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.1 * (high - low) + 1e-6)
    _draw_scores(score, progress)
    steps, died = progress.column("deaths")
    deaths.plot(*_thinned(steps, list(accumulate(died))), color=ACCENT)
    deaths.set_ylim(0, max(1.0, 1.05 * sum(died)))
    labels = {loss: "meta-loss, smoothed", score: "validation (dB)", deaths: "deaths so far"}
    for axis, label in labels.items():
        axis.set_ylabel(label)
        axis.set_xlabel("meta-steps")
        axis.set_xlim(0, max(1, progress.meta_step))
        axis.grid(alpha=0.3)
    return svg(figure)


def _draw_scores(axis: Axes, progress: Progress) -> None:
    steps, scores = progress.column("score")
    axis.plot(steps, scores, marker="o", markersize=3, color=ACCENT, clip_on=False)
    if progress.base_score is not None:
        axis.axhline(progress.base_score, color="#888", linestyle="--", label=f"untrained {progress.base_score:.2f}")
    if progress.best is not None:
        best = progress.best
        axis.plot(
            best["meta_step"], best["score"], "o", color="#d08a1d", clip_on=False, label=f"best {best['score']:.2f}"
        )
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")


def _thinned(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    stride = 1 + len(xs) // MAX_POINTS
    return xs[::stride], ys[::stride]
