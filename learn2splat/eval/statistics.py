"""What a table says about rows: the scene is the unit, seeds are averaged first, every interval is over scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from learn2splat.eval.store import Row

RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Statistics of one number per scene.

    Args:
        count: scenes.
        mean, median, worst: over scenes; worst is the smallest.
        low, high: 95 % bootstrap interval of the mean over scenes.
    """

    count: int
    mean: float
    median: float
    worst: float
    low: float
    high: float


def summarise(values: Sequence[float], seed: int = 0) -> Summary:
    """Mean, median, worst and percentile bootstrap interval (Efron 1979) of one value per scene."""
    if not len(values):
        raise ValueError("no scenes to summarise")
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[picks].mean(axis=1), [2.5, 97.5])
    return Summary(
        len(array), float(array.mean()), float(np.median(array)), float(array.min()), float(low), float(high)
    )


def per_scene(rows: Iterable[Row], method: str, kind: str, budget: float, metric: str = "psnr") -> dict[str, float]:
    """One number per scene: the mean over seeds at one budget."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.method == method and row.kind == kind and row.budget == budget:
            found.setdefault(row.scene, []).append(getattr(row, metric))
    return {scene: float(np.mean(values)) for scene, values in found.items()}


def differences(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[float]:
    """Paired differences over the scenes that both have, in order of names."""
    return [ours[scene] - theirs[scene] for scene in sorted(ours.keys() & theirs.keys())]


def win_rate(values: Sequence[float]) -> float:
    """Share of paired differences above zero."""
    return sum(value > 0 for value in values) / len(values)


def oracle(rows: Sequence[Row], methods: Sequence[str], name: str = "oracle") -> list[Row]:
    """The best of ``methods`` at every budget of every run, chosen with the result at hand: no usable method."""
    best: dict[tuple[str, str, float], Row] = {}
    for row in rows:
        if row.method in methods:
            key = (row.task, row.kind, row.budget)
            if key not in best or row.psnr > best[key].psnr:
                best[key] = row
    return [replace(row, method=name) for row in best.values()]


def markdown(rows: Sequence[Row], methods: Sequence[str], reference: str | None = None, kind: str = "steps") -> str:
    """Mean PSNR per budget; with ``reference``, paired differences with their interval and worst scene."""
    budgets = sorted({row.budget for row in rows if row.kind == kind})
    lines = [f"| method | {' | '.join(f'{budget:g}' for budget in budgets)} |", "|---|" + "---|" * len(budgets)]
    for method in methods:
        cells = []
        for budget in budgets:
            ours = per_scene(rows, method, kind, budget)
            if reference is None or method == reference:
                cells.append(f"{summarise(list(ours.values())).mean:.2f}" if ours else "-")
                continue
            paired = differences(ours, per_scene(rows, reference, kind, budget))
            if not paired:
                cells.append("-")
                continue
            s = summarise(paired)
            cells.append(f"{s.mean:+.2f} [{s.low:+.2f}, {s.high:+.2f}] worst {s.worst:+.2f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def guard_use(rows: Sequence[Row], method: str, kind: str = "steps") -> str:
    """How often the guard of ``method`` acted in a run and what it cost, at the last budget."""
    runs = [row for row in rows if row.method == method and row.kind == kind]
    last = [row for row in runs if row.budget == max(row.budget for row in runs)]
    acted = [row.guard_actions for row in last]
    cost = [row.seconds_guard / row.seconds for row in last if row.seconds]
    return (
        f"{method}: acted in {sum(count > 0 for count in acted)} of {len(acted)} runs, {np.mean(acted):.1f} times on "
        f"average; {100 * np.mean(cost):.2f} % of the time"
    )
