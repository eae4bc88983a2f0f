"""Cells of a board, one method on one task each: side by side where steps count, alone and in turn where seconds do.

Rows are stored as soon as a cell is through, so that a killed board loses no more than the cells that were running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from omegaconf import DictConfig
from torch import Tensor

from learn2splat.config import build
from learn2splat.data.procedural.spec import is_spec
from learn2splat.data.procedural.threads import serial_torch
from learn2splat.errors import UserError
from learn2splat.eval.methods import method
from learn2splat.eval.protocol import Budgets, Measured, Method, measure
from learn2splat.eval.store import RowStore
from learn2splat.eval.task import Start, Task, prepare
from learn2splat.eval.workers import event, kept_scene, processes, stopped
from learn2splat.page import jpeg


@dataclass(frozen=True)
class Bench:
    """What all cells have in common.

    Args:
        renderer: its configuration.
        device: where to optimise.
        all_pictures: keep pictures of captures too, not of procedural scenes alone.
    """

    renderer: DictConfig
    device: str = "cpu"
    all_pictures: bool = False

    def start(self, task: Task) -> Start:
        """What the methods of ``task`` are given."""
        data = kept_scene(task.scene, task.max_size, task.test_every)
        return prepare(task, build(self.renderer), data, self.device)


@dataclass(frozen=True)
class Finished:
    """A cell that is through: what came out, of which task, beside which photo [H, W, 3] in 0..1."""

    measured: Measured
    digest: str
    photo: Tensor


@dataclass(frozen=True)
class _Job:
    task: Task
    entry: str
    budgets: Budgets
    bench: Bench


class Cells:
    """Measures cells.

    Args:
        bench: what they have in common.
        store: receives the rows of each; those that are there are not measured again.
        stop: asked often; True gives up the cells that are running.
        tell: is told, in one line, of each cell.
    """

    def __init__(self, bench: Bench, store: RowStore, stop: Callable[[], bool], tell: Callable[[str], None]) -> None:
        self.bench, self.store, self.stop, self.tell = bench, store, stop, tell

    def side_by_side(
        self, tasks: Sequence[Task], entries: Mapping[str, str], budgets: Budgets, workers: int
    ) -> dict[Task, str]:
        """Measure in processes of one thread each; rows do not depend on how many there are.

        Args:
            tasks: what to optimise.
            entries: label -> what `method` understands.
            budgets: in steps, as seconds of processes that share a machine say little.
            workers: processes; 1 works in this one.

        Returns:
            The tasks that cannot be measured, and why.
        """
        jobs = [
            _Job(task, entry, budgets, self.bench)
            for task in tasks
            for label, entry in entries.items()
            if not self.store.has(task.key, label, budgets.key)
        ]
        results = _in_turn(jobs, self.stop) if workers == 1 else _in_processes(jobs, workers, self.stop)
        skipped: dict[Task, str] = {}
        for number, (job, found) in enumerate(results, start=1):
            if isinstance(found, Finished):
                self._keep(job.task, budgets, found, f"{number}/{len(jobs)}")
            elif found is not None:
                skipped[job.task] = found
        return skipped

    def alone(
        self, tasks: Sequence[Task], methods: Sequence[Method], budgets: Budgets, reference: str
    ) -> dict[Task, str]:
        """Measure one task after the other, its methods in turn.

        Args:
            tasks: what to optimise.
            methods: who competes.
            budgets: in seconds.
            reference: the method whose times the others' are compared with; where it is measured already it runs again
                beside those that are not, for its times alone.

        Returns:
            The tasks that cannot be measured, and why.
        """
        skipped: dict[Task, str] = {}
        for number, task in enumerate(tasks, start=1):
            missing = [one for one in methods if not self.store.has(task.key, one.name, budgets.key)]
            if not missing or self.stop():
                continue
            try:
                start = self.bench.start(task)
            except UserError as error:
                skipped[task] = str(error)
                continue
            beside = [one for one in methods if one.name == reference and one not in missing]
            for measured in measure(start, [*missing, *beside], budgets, self.stop, reference):
                if measured.method not in [one.name for one in beside]:
                    finished = Finished(measured, start.digest, _photo(start))
                    self._keep(task, budgets, finished, f"timed {number}/{len(tasks)}")
        return skipped

    def _keep(self, task: Task, budgets: Budgets, found: Finished, progress: str) -> None:
        measured, picture = found.measured, None
        self.store.register_task(task.key, found.digest)
        if budgets.steps and (self.bench.all_pictures or is_spec(task.scene)):
            self.store.add_photo(task.key, jpeg(found.photo))
            picture = jpeg(measured.picture)
        self.store.add(task.key, measured.method, budgets.key, measured.rows, picture)
        last = measured.rows[-1]
        ending = "" if last.outcome == "ok" else f", {last.outcome}"
        self.tell(
            f"{progress} {last.scene} ({task.setting}) {last.method}: "
            f"{last.psnr:.2f} dB at {last.budget:g} {last.kind}{ending}"
        )


def _in_turn(jobs: Sequence[_Job], stop: Callable[[], bool]) -> Iterator[tuple[_Job, Finished | str | None]]:
    for job in jobs:
        if stop():
            return
        with serial_torch():
            found = _measure(job, stop)
        yield job, found


def _in_processes(
    jobs: Sequence[_Job], workers: int, stop: Callable[[], bool]
) -> Iterator[tuple[_Job, Finished | str | None]]:
    if not jobs:
        return
    halt = event()
    pool = processes(min(workers, len(jobs)), halt)
    waiting = {pool.submit(_measure, job): job for job in jobs}
    try:
        while waiting and not stop():
            done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError("a process was killed, perhaps for want of memory: try fewer workers") from error
    finally:
        halt.set()
        pool.shutdown(cancel_futures=True)


def _measure(job: _Job, stop: Callable[[], bool] = stopped) -> Finished | str | None:
    """One cell; why it cannot be measured; or None when it was stopped."""
    try:
        start = job.bench.start(job.task)
    except UserError as error:
        return str(error)
    for measured in measure(start, [method(job.entry)], job.budgets, stop):
        return Finished(measured, start.digest, _photo(start))
    return None


def _photo(start: Start) -> Tensor:
    return start.loss.photos([start.shown])[0].cpu()
