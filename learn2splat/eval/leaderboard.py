"""From rows to the tables of a board: one entry per setting, budget and method, with statistics over scenes."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from learn2splat.eval.protocol import PHOTOMETRIC
from learn2splat.eval.statistics import Summary, differences, markdown, per_scene, summarise, win_rate
from learn2splat.eval.store import Row
from learn2splat.eval.task import Task

UNSEEN = ", unseen scenes"
"""Ending of the name of a setting: without scenes that some method was trained or tuned on."""


@dataclass(frozen=True)
class Entry:
    """One method in one setting at one budget.

    Args:
        setting, kind, budget, method: which; see `Task.setting`, `UNSEEN` and `Row`.
        loss: what it minimises, see `Row`.
        psnr: held-out PSNR over scenes, in dB.
        worst_scene: where it is least.
        ssim: mean over scenes.
        over_reference: paired differences of PSNR to the reference; None for the reference, or without it.
        wins: share of scenes on which it is above the reference.
        failures: outcome -> number of runs that had ended so by then; their PSNR counts, that of their best scene.
        steps: mean number of updates by then.
        ms_per_step: mean over scenes of optimisation time per update; None where seconds were not measured.
        time_ratio: geometric mean over scenes of the time per update by that of the reference, taken in turn with it.
        oracle_psnr: mean over scenes of the best PSNR over all budgets in steps, chosen with the result at hand.
    """

    setting: str
    kind: str
    budget: float
    method: str
    loss: str
    psnr: Summary
    worst_scene: str
    ssim: float
    over_reference: Summary | None
    wins: float | None
    failures: Mapping[str, int]
    steps: float
    ms_per_step: float | None
    time_ratio: float | None
    oracle_psnr: float | None


class Table:
    """Rows of one setting, by kind of budget, budget and method.

    Args:
        rows: of one setting.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self._cells: dict[tuple[str, float, str], list[Row]] = {}
        for row in self.rows:
            self._cells.setdefault((row.kind, row.budget, row.method), []).append(row)

    @property
    def scenes(self) -> list[str]:
        """Names, in order."""
        return sorted({row.scene for row in self.rows})

    @property
    def methods(self) -> list[str]:
        """Names, the best at the last budget in steps first (in seconds, where there are none in steps)."""
        kind = "steps" if self.budgets("steps") else "seconds"
        last = {method: self.mean(kind, self.budgets(kind)[-1], method) for method in {row.method for row in self.rows}}
        return sorted(last, key=lambda method: (-last[method], method))

    def budgets(self, kind: str) -> list[float]:
        """Ascending budgets of one kind."""
        return sorted({budget for found, budget, _ in self._cells if found == kind})

    def cell(self, kind: str, budget: float, method: str) -> list[Row]:
        """One row per scene and seed."""
        return self._cells.get((kind, budget, method), [])

    def psnr(self, kind: str, budget: float, method: str) -> dict[str, float]:
        """One number per scene, in dB."""
        return per_scene(self.cell(kind, budget, method), method, kind, budget)

    def mean(self, kind: str, budget: float, method: str) -> float:
        """Mean PSNR over scenes; minus infinity without any."""
        values = self.psnr(kind, budget, method)
        return float(np.mean(list(values.values()))) if values else -math.inf

    def best_over_run(self, method: str) -> float | None:
        """Mean over scenes of the best PSNR over all budgets in steps; None without any."""
        best: dict[tuple[str, int], float] = {}
        for row in self.rows:
            if row.method == method and row.kind == "steps":
                best[row.scene, row.seed] = max(row.psnr, best.get((row.scene, row.seed), -math.inf))
        scenes: dict[str, list[float]] = {}
        for (scene, _), value in best.items():
            scenes.setdefault(scene, []).append(value)
        return float(np.mean([np.mean(values) for values in scenes.values()])) if scenes else None

    def ms_per_step(self, budget: float, method: str) -> dict[str, float]:
        """One number per scene: milliseconds of optimisation per update, within a budget in seconds."""
        found: dict[str, list[float]] = {}
        for row in self.cell("seconds", budget, method):
            if row.step:
                found.setdefault(row.scene, []).append(1000 * row.seconds / row.step)
        return {scene: float(np.mean(values)) for scene, values in found.items()}

    def time_ratio(self, budget: float, method: str, reference: str) -> float | None:
        """Geometric mean over scenes of the time per update by that of ``reference``; None where it did not run too."""
        found: dict[str, list[float]] = {}
        for row in self.cell("seconds", budget, method):
            if row.step and row.reference == reference:
                ratio = 1.0 if method == reference else 1000 * row.seconds / row.step / row.reference_ms
                found.setdefault(row.scene, []).append(math.log(ratio))
        return math.exp(float(np.mean([np.mean(logs) for logs in found.values()]))) if found else None

    def entry(self, setting: str, kind: str, budget: float, method: str, reference: str) -> Entry | None:
        """What the table says about one cell; None where it is empty."""
        rows = self.cell(kind, budget, method)
        if not rows:
            return None
        ours = self.psnr(kind, budget, method)
        paired = [] if method == reference else differences(ours, self.psnr(kind, budget, reference))
        times = self.ms_per_step(budget, method) if kind == "seconds" else {}
        return Entry(
            setting,
            kind,
            budget,
            method,
            rows[0].loss,
            psnr=summarise(list(ours.values())),
            worst_scene=min(ours, key=lambda scene: ours[scene]),
            ssim=float(np.mean(list(per_scene(rows, method, kind, budget, "ssim").values()))),
            over_reference=summarise(paired) if paired else None,
            wins=win_rate(paired) if paired else None,
            failures=dict(Counter(row.outcome for row in rows if row.outcome != "ok")),
            steps=float(np.mean([row.step for row in rows])),
            ms_per_step=float(np.mean(list(times.values()))) if times else None,
            time_ratio=self.time_ratio(budget, method, reference) if kind == "seconds" else None,
            oracle_psnr=self.best_over_run(method) if kind == "steps" else None,
        )

    def entries(self, setting: str, reference: str) -> list[Entry]:
        """All entries: budgets in steps, then in seconds, ascending; the methods in the order of `methods`."""
        cells = [(kind, budget) for kind in ("steps", "seconds") for budget in self.budgets(kind)]
        found = (self.entry(setting, *cell, method, reference) for cell in cells for method in self.methods)
        return [entry for entry in found if entry is not None]


def tables(rows: Sequence[Row], seen: Sequence[str] = ()) -> dict[str, Table]:
    """Setting -> its rows; where some of its scenes are ``seen``, a second time without them (`UNSEEN`)."""
    found: dict[str, list[Row]] = {}
    settings = {key: Task.from_key(key).setting for key in {row.task for row in rows}}
    for row in rows:
        found.setdefault(settings[row.task], []).append(row)
    for setting, all_rows in list(found.items()):
        unseen = [row for row in all_rows if row.scene not in seen]
        if 0 < len(unseen) < len(all_rows):
            found[setting + UNSEEN] = unseen
    return {setting: Table(found[setting]) for setting in sorted(found)}


def as_json(entries: Sequence[Entry], rows: Sequence[Row], about: Mapping[str, object]) -> dict[str, object]:
    """All there is: ``about``, the entries, and one record per run and budget."""
    runs = []
    for row in rows:
        record = asdict(row) | {"setting": Task.from_key(row.task).setting}
        del record["task"]
        if row.kind == "steps":  # processes that shared a machine
            for name in ("seconds", "seconds_render", "seconds_update", "reference", "reference_ms"):
                del record[name]
        runs.append(record)
    return {**about, "entries": [asdict(entry) for entry in entries], "runs": runs}


def as_csv(entries: Sequence[Entry]) -> str:
    """One line per entry; nested fields are named ``psnr.mean`` and so on, failures are counted."""
    stream = io.StringIO()
    nested = ("count", "mean", "median", "worst", "low", "high")
    flat = ("setting", "kind", "budget", "method", "loss")
    rest = ("worst_scene", "ssim", "wins", "steps", "ms_per_step", "time_ratio", "oracle_psnr")
    names = [*flat, *(f"psnr.{name}" for name in nested), *(f"over_reference.{name}" for name in nested), *rest]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, "failures"])
    for entry in entries:
        values = asdict(entry)
        cells = [
            (values[name.partition(".")[0]] or {}).get(name.partition(".")[2]) if "." in name else values[name]
            for name in names
        ]
        writer.writerow([*cells, sum(entry.failures.values())])
    return stream.getvalue()


def as_markdown(found: Mapping[str, Table], entries: Sequence[Entry], reference: str, notes: Sequence[str]) -> str:
    """Tables for a README: per setting, means at all budgets, differences, and statistics at the last budgets."""
    parts = ["# Leaderboard", *(f"- {note}" for note in notes)]
    for setting, table in found.items():
        parts.append(f"\n## {setting}: {len(table.scenes)} scenes")
        for kind in ("steps", "seconds"):
            budgets = table.budgets(kind)
            if not budgets:
                continue
            parts += [f"\nMean held-out PSNR (dB) by {kind}:\n", markdown(table.rows, table.methods, kind=kind)]
            parts += [f"\nPaired difference to {reference} by {kind}:\n"]
            parts += [markdown(table.rows, table.methods, reference, kind)]
            last = [e for e in entries if (e.setting, e.kind, e.budget) == (setting, kind, budgets[-1])]
            parts += [f"\nAt {budgets[-1]:g} {kind}:\n", _statistics(last, reference)]
    return "\n".join(parts) + "\n"


def _statistics(entries: Sequence[Entry], reference: str) -> str:
    timed = entries[0].kind == "seconds"
    heads = ["method", "PSNR [95 %]", "median", "worst scene", "SSIM", f"wins over {reference}", "failures"]
    heads += ["steps", "ms per step", f"x {reference}"] if timed else ["best over the run (oracle)"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for e in entries:
        name = e.method if e.loss == PHOTOMETRIC else f"{e.method} ({e.loss})"
        cells = [name, f"{e.psnr.mean:.2f} [{e.psnr.low:.2f}, {e.psnr.high:.2f}]", f"{e.psnr.median:.2f}"]
        cells += [f"{e.psnr.worst:.2f} ({e.worst_scene})", f"{e.ssim:.3f}"]
        cells.append("-" if e.wins is None else f"{100 * e.wins:.0f} %")
        cells.append(", ".join(f"{count} {outcome}" for outcome, count in sorted(e.failures.items())) or "0")
        if timed:
            cells += [f"{e.steps:.0f}"]
            cells += ["-" if value is None else f"{value:.2f}" for value in (e.ms_per_step, e.time_ratio)]
        else:
            cells.append("-" if e.oracle_psnr is None else f"{e.oracle_psnr:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
