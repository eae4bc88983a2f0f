"""Curves of a board as inline SVG: quality against steps and against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learn2splat.eval.leaderboard import Table
from learn2splat.eval.statistics import differences, summarise
from learn2splat.page import svg

Point = tuple[float, float, float, float]
"""Budget, mean, and the ends of its 95 % interval, in dB."""


def colours(methods: Sequence[str], reference: str) -> dict[str, str]:
    """One colour per method, the same on every page; the reference is grey."""
    palette = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    strong = [matplotlib.colors.to_hex(colour) for colour in (*palette[::2], *palette[1::2])]
    strong.remove("#7f7f7f")
    others = [method for method in sorted(methods) if method != reference]
    chosen = {method: strong[number % len(strong)] for number, method in enumerate(others)}
    return {**chosen, reference: "#555555"}


def overview(table: Table, reference: str, colour: Mapping[str, str]) -> Markup:
    """Mean over scenes with its interval: PSNR against steps and seconds, and what it is over the reference."""
    kinds = [kind for kind in ("steps", "seconds") if table.budgets(kind)]
    baselines = (None, reference) if reference in table.methods else (None,)
    figure = Figure(figsize=(11, 0.5 + 3.2 * len(baselines)), layout="constrained")
    axes = figure.subplots(len(baselines), len(kinds), squeeze=False)
    for baseline, row in zip(baselines, axes, strict=True):
        for kind, axis in zip(kinds, row, strict=True):
            for method in reversed(table.methods):  # the best on top
                _draw(axis, _points(table, kind, method, baseline), colour[method], method)
            _dress(axis, kind, table.budgets(kind), f"over {baseline} (dB)" if baseline else "PSNR (dB)")
    _add_legend(figure, axes[0, 0], table.methods)
    return svg(figure)


def of_scene(table: Table, scene: str, colour: Mapping[str, str], small: bool = False) -> Markup:
    """PSNR of one scene against steps; unless ``small``, against seconds too."""
    kinds = [kind for kind in ("steps", "seconds") if table.budgets(kind)]
    kinds = kinds[:1] if small else kinds
    figure = Figure(figsize=(2.6, 1.7) if small else (11, 3.5), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False).ravel()
    for axis, kind in zip(axes, kinds, strict=True):
        for method in reversed(table.methods):
            values = [(budget, table.psnr(kind, budget, method).get(scene)) for budget in table.budgets(kind)]
            points = [(budget, value, value, value) for budget, value in values if value is not None]
            _draw(axis, _from_start(table, kind, method, scene) + points, colour[method], method, small)
        _dress(axis, kind, table.budgets(kind), "PSNR (dB)", small)
    if not small:
        _add_legend(figure, axes[0], table.methods)
    return svg(figure)


def _points(table: Table, kind: str, method: str, baseline: str | None) -> list[Point]:
    """Of the PSNR, or of its paired difference to that of ``baseline``."""
    points = []
    for budget in table.budgets(kind):
        ours = table.psnr(kind, budget, method)
        values = list(ours.values()) if baseline is None else differences(ours, table.psnr(kind, budget, baseline))
        if values:
            s = summarise(values)
            points.append((budget, s.mean, s.low, s.high))
    return points if baseline else _from_start(table, kind, method) + points


def _from_start(table: Table, kind: str, method: str, scene: str | None = None) -> list[Point]:
    """The initial scene, which was measured as step 0, as the point at 0 seconds."""
    if kind == "steps":
        return []
    values = table.psnr("steps", 0.0, method)
    if scene is not None:
        values = {scene: values[scene]} if scene in values else {}
    mean = float(np.mean(list(values.values()))) if values else 0.0
    return [(0.0, mean, mean, mean)] if values else []


def _draw(axis: Axes, points: Sequence[Point], colour: str, label: str, small: bool = False) -> None:
    if not points:
        return
    budgets, means, lows, highs = zip(*points, strict=True)
    if lows != highs:
        axis.fill_between(budgets, lows, highs, color=colour, alpha=0.1, linewidth=0)
    axis.plot(budgets, means, color=colour, label=label, linewidth=1 if small else 1.5, marker=None if small else ".")


def _dress(axis: Axes, kind: str, budgets: Sequence[float], label: str, small: bool = False) -> None:
    axis.set_xscale("symlog", linthresh=10 if kind == "steps" else 0.3)
    axis.set_xlim(0, 1.03 * budgets[-1])
    ticks = [0, budgets[len(budgets) // 2], budgets[-1]] if small else budgets
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=6 if small else 8)
    if not small:
        axis.set_xlabel("optimisation seconds" if kind == "seconds" else "steps")
        axis.set_ylabel(label)


def _add_legend(figure: Figure, axis: Axes, methods: Sequence[str]) -> None:
    """Below all; the methods in their order."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    names = [method for method in methods if method in handles]
    shown = [handles[name] for name in names]
    figure.legend(handles=shown, labels=names, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
