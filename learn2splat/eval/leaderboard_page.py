"""The pages of a board: one for all, one per scene; they open from disk and need no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn2splat.eval.leaderboard import UNSEEN, Entry, Table
from learn2splat.eval.leaderboard_curves import colours, of_scene, overview
from learn2splat.page import data_url, write_page

INDEX = "leaderboard.html"
SCENES = "scenes"
PHOTO = "photo"

Pictures = Mapping[str, Mapping[str, Mapping[str, bytes]]]
"""Scene -> setting -> what it shows (`PHOTO` or a method) -> JPEG file."""


@dataclass(frozen=True)
class About:
    """What the pages say beside numbers.

    Args:
        reference: the method that differences are relative to.
        notes: one sentence each; what was left out, for example.
        machine: versions, hardware and command.
        config: the configuration as text.
        missing: cells that were asked for and are not measured.
    """

    reference: str
    notes: Sequence[str]
    machine: Mapping[str, Any]
    config: str
    missing: int


def write_pages(
    folder: Path, found: Mapping[str, Table], entries: Sequence[Entry], pictures: Pictures, about: About
) -> Path:
    """Write ``leaderboard.html`` and ``scenes/NAME.html``; returns the path of the former.

    Args:
        folder: where to.
        found: setting -> its rows.
        entries: of all settings.
        pictures: those that may be shown.
        about: the rest.
    """
    colour = colours(sorted({method for table in found.values() for method in table.methods}), about.reference)
    whole = {setting: table for setting, table in found.items() if not setting.endswith(UNSEEN)}
    scenes = sorted({scene for table in whole.values() for scene in table.scenes})
    for scene in scenes:
        _write_scene(folder / SCENES / f"{slug(scene)}.html", scene, whole, pictures.get(scene, {}), colour)
    sections = []
    for setting, table in found.items():
        ours = [entry for entry in entries if entry.setting == setting]
        budgets = [(kind, budget) for kind in ("steps", "seconds") for budget in table.budgets(kind)]
        sections.append(
            {
                "setting": setting,
                "table": table,
                "curves": overview(table, about.reference, colour),
                "means": {kind: _means(table, kind) for kind in ("steps", "seconds") if table.budgets(kind)},
                "budgets": budgets,
                "entries": {
                    (kind, budget): [e for e in ours if (e.kind, e.budget) == (kind, budget)]
                    for kind, budget in budgets
                },
                "multiples": [
                    (scene, slug(scene), of_scene(table, scene, colour, small=True))
                    for scene in (table.scenes if setting in whole else ())
                ],
            }
        )
    failures = sum(row.outcome != "ok" for table in whole.values() for row in _last_rows(table))
    write_page(
        folder / INDEX,
        "eval/leaderboard.html.j2",
        sections=sections,
        about=about,
        colour=colour,
        scenes=scenes,
        failures=failures,
        runs=sum(len(_last_rows(table)) for table in whole.values()),
    )
    return folder / INDEX


def slug(scene: str) -> str:
    """A name of a scene as that of a file."""
    return re.sub(r"[^\w.-]+", "_", scene)


def _write_scene(
    path: Path,
    scene: str,
    found: Mapping[str, Table],
    pictures: Mapping[str, Mapping[str, bytes]],
    colour: Mapping[str, str],
) -> None:
    sections = []
    for setting, table in found.items():
        if scene in table.scenes:
            shown = pictures.get(setting, {})
            order = [name for name in (PHOTO, *table.methods) if name in shown]
            sections.append(
                {
                    "setting": setting,
                    "table": table,
                    "curves": of_scene(table, scene, colour),
                    "means": {kind: _means(table, kind, scene) for kind in ("steps", "seconds") if table.budgets(kind)},
                    "pictures": {name: data_url(shown[name]) for name in order},
                }
            )
    write_page(path, "eval/leaderboard_scene.html.j2", scene=scene, sections=sections, colour=colour, index=INDEX)


def _means(table: Table, kind: str, scene: str | None = None) -> list[tuple[str, list[tuple[float | None, str, bool]]]]:
    """Method -> per budget (PSNR, how many runs had failed by then, whether it is the best)."""
    lines = []
    for method in table.methods:
        cells: list[tuple[float | None, str]] = []
        for budget in table.budgets(kind):
            values = table.psnr(kind, budget, method)
            rows = table.cell(kind, budget, method)
            if scene is not None:
                values = {name: value for name, value in values.items() if name == scene}
                rows = [row for row in rows if row.scene == scene]
            failed = [row.outcome for row in rows if row.outcome != "ok"]
            text = ", ".join(f"{failed.count(outcome)} {outcome}" for outcome in sorted(set(failed)))
            cells.append((sum(values.values()) / len(values) if values else None, text))
        lines.append((method, cells))
    columns = [[cells[i][0] for _, cells in lines if cells[i][0] is not None] for i in range(len(table.budgets(kind)))]
    best = [max(column) if len(set(column)) > 1 else None for column in columns]  # type: ignore[type-var]
    return [
        (method, [(value, text, value == best[i]) for i, (value, text) in enumerate(cells)]) for method, cells in lines
    ]


def _last_rows(table: Table) -> list[Any]:
    kinds = [kind for kind in ("steps", "seconds") if table.budgets(kind)]
    return [row for kind in kinds for m in table.methods for row in table.cell(kind, table.budgets(kind)[-1], m)]
