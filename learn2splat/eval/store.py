"""Rows of measurements in SQLite: resumable, and honest about methods that changed in between."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from learn2splat.errors import UserError
from learn2splat.files import CannotWriteError, writing


@dataclass(frozen=True)
class Row:
    """One evaluation of one run.

    Args:
        task: what was optimised, as text (scene, views, seed, sizes).
        scene: name of the scene; the unit of all statistics.
        method: name of the method.
        seed: of initialisation and view order.
        kind: "steps" or "seconds": what ``budget`` counts.
        budget: after how much of it the scene was evaluated.
        step: updates made by then.
        psnr, ssim: means over the held-out views.
        seconds, seconds_render, seconds_update: optimisation time by then.
        gaussians: number of them.
        outcome: "ok", or how the run had failed by then; metrics are then those of the best scene it had.
        guard_actions: how often the guard had acted by then.
        seconds_guard: the part of ``seconds_update`` that it took.
        loss: what was minimised: "photometric", or the method's own.
        reference, reference_ms: a method that was stepped in turn with this one, and milliseconds per its update.
    """

    task: str
    scene: str
    method: str
    seed: int
    kind: str
    budget: float
    step: int
    psnr: float
    ssim: float
    seconds: float
    seconds_render: float
    seconds_update: float
    gaussians: int
    outcome: str
    guard_actions: int = 0
    seconds_guard: float = 0.0
    loss: str = "photometric"
    reference: str = ""
    reference_ms: float = 0.0


Given = ParamSpec("Given")
Result = TypeVar("Result")

OF_THE_MACHINE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}
"""SQLite's errors that are not of the file's content."""
PHOTO = ""
"""Stands for a method where a picture is the photo."""
_COLUMNS = {entry.name: entry.default for entry in fields(Row)}
_SCHEMA = f"""
create table if not exists rows ({", ".join(_COLUMNS)}, primary key (task, method, kind, budget));
create table if not exists runs (task, method, budgets, primary key (task, method));
create table if not exists methods (name primary key, digest);
create table if not exists tasks (name primary key, digest);
create table if not exists pictures (task, method, jpeg, primary key (task, method));
"""


def _named(
    method: Callable[Concatenate[RowStore, Given], Result],
) -> Callable[Concatenate[RowStore, Given], Result]:
    """``method``, whose errors of SQLite name the file and say what to do."""

    @wraps(method)
    def named(self: RowStore, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return method(self, *args, **kwargs)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in OF_THE_MACHINE:
                raise CannotWriteError(f"{self.path} cannot be written or read ({error})") from error
            raise UserError(f"{self.path}: not a file of rows, or a damaged one ({error}); choose another") from error

    return named


class RowStore:
    """A file of rows; safe against being killed: a run's rows appear all at once or not at all.

    Raises:
        UserError: by every method: the file holds something else, or is damaged.
        CannotWriteError: by every method: the file cannot be written or read.
    """

    @_named
    def __init__(self, path: Path | str) -> None:
        self.path = path
        if str(path) != ":memory:":
            with writing(Path(path)):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path)
        self._connection.executescript(_SCHEMA)
        known = {name for _, name, *_ in self._connection.execute("pragma table_info(rows)")}
        for name, default in _COLUMNS.items():
            if name not in known:  # measured by an earlier version, which had no such column
                self._connection.execute(f"alter table rows add column {name} default {default!r}")

    @_named
    def register(self, method: str, digest: str) -> None:
        """Remember what ``method`` is.

        Raises:
            UserError: rows of another method of that name are in the file.
        """
        self._remember("methods", method, digest, f"{method!r} has changed", "give it another name")

    @_named
    def register_task(self, task: str, digest: str) -> None:
        """Remember what ``task`` gave to its methods.

        Raises:
            UserError: its rows were measured on other photos, with another split, start or renderer.
        """
        self._remember("tasks", task, digest, f"the scene of {task} has changed", "restore it")

    def _remember(self, table: str, name: str, digest: str, changed: str, remedy: str) -> None:
        with self._connection:
            found = self._connection.execute(f"select digest from {table} where name = ?", (name,)).fetchone()
            if found is not None and found[0] != digest:
                raise UserError(f"{self.path}: {changed} since its rows were measured; {remedy}, or use another file")
            self._connection.execute(f"insert or ignore into {table} values (?, ?)", (name, digest))

    @_named
    def forget(self, method: str) -> None:
        """Drop everything about ``method``."""
        with self._connection:
            for table in ("rows", "runs", "pictures"):
                self._connection.execute(f"delete from {table} where method = ?", (method,))
            self._connection.execute("delete from methods where name = ?", (method,))

    @_named
    def has(self, task: str, method: str, budgets: str) -> bool:
        """Whether this run was measured, to these budgets."""
        query = "select budgets from runs where task = ? and method = ?"
        found = self._connection.execute(query, (task, method)).fetchone()
        return found is not None and found[0] == budgets

    @_named
    def add(self, task: str, method: str, budgets: str, rows: Sequence[Row], jpeg: bytes | None = None) -> None:
        """Add the rows of one finished run, and its picture, replacing older ones of the same run."""
        marks = ", ".join("?" * len(_COLUMNS))
        with self._connection:
            self._connection.execute("delete from rows where task = ? and method = ?", (task, method))
            self._connection.executemany(f"insert into rows values ({marks})", [astuple(row) for row in rows])
            self._connection.execute("insert or replace into runs values (?, ?, ?)", (task, method, budgets))
            if jpeg is not None:
                self._connection.execute("insert or replace into pictures values (?, ?, ?)", (task, method, jpeg))

    @_named
    def add_photo(self, task: str, jpeg: bytes) -> None:
        """Keep the photo that the pictures of ``task`` are compared with."""
        with self._connection:
            self._connection.execute("insert or replace into pictures values (?, ?, ?)", (task, PHOTO, jpeg))

    @_named
    def pictures(self, task: str) -> dict[str, bytes]:
        """JPEG files by the name of the method; the photo is that of `PHOTO`."""
        query = "select method, jpeg from pictures where task = ?"
        return dict(self._connection.execute(query, (task,)).fetchall())

    @_named
    def absorb(self, other: RowStore) -> None:
        """Add the runs of ``other`` that are not here yet.

        Raises:
            UserError: a method or a task is not the same there.
        """
        for table, register in (("methods", self.register), ("tasks", self.register_task)):
            for name, digest in other._connection.execute(f"select name, digest from {table}"):
                register(name, digest)
        pictures = {task: other.pictures(task) for (task,) in other._connection.execute("select name from tasks")}
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in other.rows():
            rows.setdefault((row.task, row.method), []).append(row)
        for task, method, budgets in other._connection.execute("select task, method, budgets from runs").fetchall():
            if not self.has(task, method, budgets):
                self.add(task, method, budgets, rows.get((task, method), []), pictures.get(task, {}).get(method))
        for task, found in pictures.items():
            if PHOTO in found:
                self.add_photo(task, found[PHOTO])

    @_named
    def rows(self, methods: Iterable[str] | None = None) -> list[Row]:
        """All rows, or those of some methods."""
        found = [Row(*values) for values in self._connection.execute(f"select {', '.join(_COLUMNS)} from rows")]
        wanted = None if methods is None else set(methods)
        return [row for row in found if wanted is None or row.method in wanted]
