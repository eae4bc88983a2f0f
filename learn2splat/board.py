"""A leaderboard from its configuration: what is measured, where its rows are kept, the files it ends in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from learn2splat.config import BadConfigError, choices, compose
from learn2splat.data.procedural.spec import is_spec
from learn2splat.errors import UserError
from learn2splat.eval.cells import Bench, Cells
from learn2splat.eval.leaderboard import Entry, as_csv, as_json, as_markdown, tables
from learn2splat.eval.leaderboard_page import PHOTO, About, write_pages
from learn2splat.eval.methods import method, pinned
from learn2splat.eval.protocol import Budgets, Method
from learn2splat.eval.store import PHOTO as PHOTO_ROW
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import Task
from learn2splat.eval.workers import cores
from learn2splat.files import shareable, shareable_paths, write_text
from learn2splat.run_folder import machine, shareable_yaml
from learn2splat.scoring import scene_names

PASSES = ("steps", "seconds")


@dataclass(frozen=True)
class _Pass:
    """One way of counting: its budgets, and the file of its rows."""

    kind: str
    budgets: Budgets
    store: RowStore


def compose_board(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> DictConfig:
    """``configs/leaderboard.yaml`` with ``key=value`` overrides, then ``settings``, its flags on the command line.

    Args:
        settings: ``scenes`` replaces all others; ``optimizers`` and ``settings`` are separated by commas.
        overrides: in Hydra's syntax.

    Raises:
        BadConfigError: an override is unknown.
    """
    config = compose("leaderboard", overrides)
    for key, value in settings.items():
        if key == "scenes":
            config.captures, config.scenes.captures, config.scenes.procedural = ".", list(value), 0
        elif key in ("optimizers", "settings"):
            config[key] = str(value).split(",")
        else:
            config[key] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return config


class Board:
    """Scenes x settings x methods x seeds x budgets, measured into ``config.out``.

    Args:
        config: as `compose_board` gives it.
        tell: is told, in one line each, of cells and of what is left out.

    Raises:
        UserError: bad input; or rows in ``config.out`` are of methods that have changed since.
    """

    def __init__(self, config: DictConfig, tell: Callable[[str], None] = lambda line: None) -> None:
        _check(config)
        self.config, self.tell, self.notes = config, tell, list[str]()
        self.folder = Path(config.out)
        index, count = (int(part) for part in config.shard.split("/"))
        self.whole = count == 1
        self.tasks = [task for scene in self._scenes()[index::count] for task in self._tasks(scene)]
        self.entries, self.methods = _methods(config)
        suffix = "" if self.whole else f"-{index}-of-{count}"
        budgets = {"steps": Budgets(tuple(config.budgets.steps)), "seconds": Budgets((), tuple(config.budgets.seconds))}
        self.passes = [
            _Pass(kind, budgets[kind], RowStore(self.folder / f"{kind}{suffix}.sqlite"))
            for kind in PASSES
            if kind in config.passes and config.budgets[kind]
        ]
        for one in self.passes:
            files = sorted(self.folder.glob(f"{one.kind}-*-of-*.sqlite")) if self.whole else []
            shards = [RowStore(file) for file in files]
            for store in (one.store, *shards):
                for label in config.remeasure:
                    store.forget(label)
            for shard in shards:
                one.store.absorb(shard)
            for entry in self.methods:
                one.store.register(entry.name, entry.digest)

    def measure(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Measure all cells that are not measured yet; ``stop`` is asked often.

        Raises:
            UserError: no task can be measured at all.
        """
        config = self.config
        bench = Bench(config.renderer, str(config.device), config.pictures == "all")
        for one in self.passes:
            cells = Cells(bench, one.store, stop, self.tell)
            if one.kind == "steps":
                skipped = cells.side_by_side(self.tasks, self.entries, one.budgets, config.workers or cores())
            else:
                skipped = cells.alone(self.tasks, self.methods, one.budgets, str(config.reference))
            for task, reason in skipped.items():
                self._note(f"left out: {task.scene} ({task.setting}): {reason}")
            self.tasks = [task for task in self.tasks if task not in skipped]
            if skipped and not self.tasks:
                raise UserError(f"nothing can be measured: {next(iter(skipped.values()))}")

    def write(self) -> Path | None:
        """Write ``leaderboard.json``, ``.csv``, ``.md``, ``.html`` and a page per scene, of the rows there are.

        Returns:
            The HTML file; None when there is no row, or this is one shard of several.
        """
        rows = self.rows()
        if not rows or not self.whole:
            return None
        found, reference = tables(rows, self.config.seen), str(self.config.reference)
        entries: list[Entry] = [e for setting, table in found.items() for e in table.entries(setting, reference)]
        about = About(
            reference,
            shareable(self.notes),
            machine() | {"cores": cores()},
            shareable_yaml(self.config),
            self.missing(),
        )
        plain = {"reference": reference, "notes": self.notes, "machine": about.machine, "missing": about.missing}
        plain["methods"] = [
            {"name": one.name, "optimizer": shareable_paths(self.entries[one.name]), "digest": one.digest}
            for one in self.methods
        ]
        content = as_json(entries, rows, shareable(plain))
        write_text(self.folder / "leaderboard.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_text(self.folder / "leaderboard.csv", as_csv(entries))
        named = "{processor}, {cores} cores, {system}, learn2splat {learn2splat}, torch {torch}".format(**about.machine)
        write_text(
            self.folder / "leaderboard.md", as_markdown(found, entries, reference, [named, *shareable(self.notes)])
        )
        return write_pages(self.folder, found, entries, self._pictures(rows), about)

    def rows(self) -> list[Row]:
        """The rows of the cells that were asked for."""
        found = []
        for one in self.passes:
            wanted = {(task.key, name) for task, name, measured in self._runs(one) if measured}
            found += [row for row in one.store.rows() if (row.task, row.method) in wanted]
        return found

    def missing(self) -> int:
        """How many runs that were asked for are not measured."""
        return sum(not measured for one in self.passes for _, _, measured in self._runs(one))

    def _runs(self, one: _Pass) -> list[tuple[Task, str, bool]]:
        """Task, method and whether they are measured, of all runs that were asked for."""
        names = [entry.name for entry in self.methods]
        return [(task, name, one.store.has(task.key, name, one.budgets.key)) for task in self.tasks for name in names]

    def _note(self, text: str) -> None:
        """Say ``text`` now and in every output."""
        self.notes.append(text)
        self.tell(text)

    def _scenes(self) -> list[str]:
        """Those that are on this machine."""
        scenes, folder = self.config.scenes.copy(), Path(self.config.captures)
        present = [name for name in scenes.captures if is_spec(name) or (folder / name).exists()]
        absent = [name for name in scenes.captures if name not in present]
        if absent:
            self._note(f"left out, as they are not in {folder}: {', '.join(absent)}")
        scenes.captures = [str(folder / name) for name in present]
        names = scene_names(scenes)
        if not names:
            raise UserError("no scene to measure on: give captures that are there, or procedural scenes")
        return names

    def _tasks(self, scene: str) -> list[Task]:
        config = self.config
        task = Task(
            scene,
            max_size=config.max_size,
            max_gaussians=config.max_gaussians,
            sh_degree=config.sh_degree,
            batch_views=config.batch_views,
            test_every=config.test_every,
        )
        return [replace(task.under(str(s)), seed=seed) for s in config.settings for seed in range(config.seeds)]

    def _pictures(self, rows: Sequence[Row]) -> dict[str, dict[str, dict[str, bytes]]]:
        """Scene -> setting -> `PHOTO` or method -> JPEG file, of the first seed."""
        found: dict[str, dict[str, dict[str, bytes]]] = {}
        for key, scene in {row.task: row.scene for row in rows if row.kind == "steps" and row.seed == 0}.items():
            task = Task.from_key(key)
            if self.config.pictures == "all" or is_spec(task.scene):
                store = next(one.store for one in self.passes if one.kind == "steps")
                pictures = {name if name != PHOTO_ROW else PHOTO: jpeg for name, jpeg in store.pictures(key).items()}
                found.setdefault(scene, {})[task.setting] = pictures
        return found


def _methods(config: DictConfig) -> tuple[dict[str, str], list[Method]]:
    """Label -> what `method` understands; and the methods themselves, with digests of their code."""
    names = _every_optimizer() if config.optimizers is None else [str(name) for name in config.optimizers]
    found: dict[str, str] = {}
    methods = []
    for name in (*names, *(str(plugin) for plugin in config.plugins)):
        one = pinned(method(name))
        if one.name in found:
            raise UserError(f"two methods are named {one.name!r}: give one another label, e.g. other={name}")
        found[one.name] = name
        methods.append(one)
    return found, methods


def _every_optimizer() -> list[str]:
    """The files of ``configs/optimizer``; of several with the same content the first."""
    found: dict[str, str] = {}
    for name in choices("optimizer"):
        found.setdefault(method(name).digest, name)
    return list(found.values())


def _check(config: DictConfig) -> None:
    def ascending(values: Any) -> bool:
        numbers = isinstance(values, ListConfig) and all(isinstance(v, int | float) and v >= 0 for v in values)
        return numbers and list(values) == sorted(set(values))

    shard = re.fullmatch(r"(\d+)/(\d+)", str(config.shard))
    rules = {
        "shard": (shard is not None and int(shard[1]) < int(shard[2]), "i/n with i from 0 to n - 1, e.g. 0/4"),
        "seeds": (isinstance(config.seeds, int) and config.seeds >= 1, "1 or more"),
        "workers": (config.workers is None or (isinstance(config.workers, int) and config.workers >= 1), "1 or more"),
        "settings": (
            all(re.match(r"(dense|sparse:\d+)($|\+)", str(s)) for s in config.settings),
            "of dense and sparse:K",
        ),
        "passes": (set(config.passes) <= set(PASSES) and len(config.passes) > 0, "of steps and seconds"),
        "pictures": (config.pictures in ("procedural", "all"), "procedural or all"),
        "device": (config.device in ("cpu", "cuda"), "cpu or cuda"),
    }
    for key, (legal, remedy) in rules.items():
        if not legal:
            raise BadConfigError(f"{key}={config[key]!r}: it must be {remedy}")
    if not (ascending(config.budgets.steps) and ascending(config.budgets.seconds)):
        raise BadConfigError("budgets.steps and budgets.seconds must be ascending lists of numbers")
