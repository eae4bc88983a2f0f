"""scenes x settings x methods x seeds x budgets -> rows: one loop for learned and conventional optimizers alike.

All methods of a task share the photos, the renderer, the loss, the initial scene and the order of views. They are
stepped in turn, a few steps each, so that drift of the machine's speed hits all of them alike.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.views import RandomViews, probe_views
from learn2splat.eval.metrics import evaluate, means
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import Start, Task, prepare
from learn2splat.optim.base import Need, SceneOptimizer
from learn2splat.proximal import Proximal
from learn2splat.render.base import Renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState, StepRecord
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.start import head_start

TURN_STEPS = 10
"""Steps that one method takes before it is the next one's turn."""
ERROR = "error"
"""Outcome of a run whose optimizer raised an exception."""
PHOTOMETRIC, SQUARED_ERROR = "photometric", "squared error"
"""What a method minimises: L1 and SSIM as all others, or its own."""


@dataclass(frozen=True)
class Method:
    """A named optimizer.

    Args:
        name: as in the table.
        build: makes the optimizer anew for each run.
        digest: changes whenever the method does (configuration, weights).
        average: whether the averaged scene is its output.
        guard: whether it is guarded, with probe views where views are few (see `Rollout`).
        hold: the pull towards the initial scene that is added to the loss, if any.
    """

    name: str
    build: Callable[[], SceneOptimizer]
    digest: str
    average: bool = True
    guard: bool = False
    hold: Callable[[Start], Proximal] | None = None


@dataclass(frozen=True)
class Budgets:
    """When to evaluate; fixed in advance.

    Args:
        steps: ascending numbers of updates; 0 evaluates the initial scene.
        seconds: ascending optimisation times; a run goes on until both lists are done, or until ``steps`` ends it.
            Without ``steps`` it does not know its horizon.
    """

    steps: Sequence[int] = (0, 10, 20, 50, 100, 200, 500)
    seconds: Sequence[float] = ()

    @property
    def key(self) -> str:
        """The budgets as text."""
        return json.dumps([list(self.steps), list(self.seconds)])


@dataclass(frozen=True)
class Measured:
    """What one run gave.

    Args:
        method: its name.
        rows: one per budget.
        picture: last rendering [H, W, 3] of the view that is `Start.shown`, in 0..1.
    """

    method: str
    rows: list[Row]
    picture: Tensor


@dataclass(frozen=True)
class _Point:
    """Where a run stands between two steps: the scene to evaluate, how it has ended if so, and what it took."""

    scene: GaussianScene
    outcome: str
    step: int = 0
    seconds_render: float = 0.0
    seconds_update: float = 0.0
    guard_actions: int = 0
    seconds_guard: float = 0.0

    @property
    def seconds(self) -> float:
        return self.seconds_render + self.seconds_update


@dataclass
class _Run:
    """One method on one task, in progress."""

    method: Method
    loss: str
    rollout: Rollout
    records: Iterator[StepRecord]
    due: dict[str, list[float]]
    rows: list[Row] = field(default_factory=list)
    picture: Tensor | None = None
    raised: bool = False

    @property
    def now(self) -> _Point:
        state, outcome = self.rollout.state, self.rollout.outcome()
        return _Point(
            state.best if self.raised else outcome.scene,
            ERROR if self.raised else outcome.kind.value,
            state.step,
            state.seconds_render,
            state.seconds_update,
            state.guard.actions,
            state.guard.seconds,
        )


def run_task(
    task: Task,
    methods: Sequence[Method],
    budgets: Budgets,
    store: RowStore,
    renderer: Renderer,
    data: SceneData | None = None,
    device: torch.device | str = "cpu",
    background: Tensor | None = None,
) -> None:
    """Run all methods that are not in the store yet, in turn, and store their rows.

    Args:
        task: what to optimise.
        methods: who competes.
        budgets: when to evaluate.
        store: receives the rows of each method once it is through.
        renderer: one for all.
        data: the scene of the task, when it is loaded already.
        device: where to optimise.
        background: [3] colour behind the Gaussians; default black.
    """
    for method in methods:
        store.register(method.name, method.digest)
    missing = [method for method in methods if not store.has(task.key, method.name, budgets.key)]
    if not missing:
        return
    start = prepare(task, renderer, data, device, background)
    store.register_task(task.key, start.digest)
    for found in measure(start, missing, budgets):
        store.add(task.key, found.method, budgets.key, found.rows)


def measure(
    start: Start,
    methods: Sequence[Method],
    budgets: Budgets,
    stop: Callable[[], bool] = lambda: False,
    reference: str = "",
) -> Iterator[Measured]:
    """Run ``methods`` in turn; each is yielded once it is through.

    The next turn is always that of the method that is furthest behind, in seconds when there are budgets in seconds.
    A budget in seconds is that of the last step that ended within it.

    Args:
        start: what they are given.
        methods: who competes.
        budgets: when to evaluate.
        stop: asked before each turn; True ends all without another result.
        reference: the one of ``methods`` whose time per update, taken in turn with theirs, is kept in all rows.
    """
    active: list[_Run] = []
    for method in methods:
        try:
            active.append(_begin(method, start, budgets))
        except Exception:
            _log_failure(method, start)
            due = _due(budgets)
            rows, picture = _evaluated(_Point(start.scene, ERROR), due, method.name, PHOTOMETRIC, start)
            yield Measured(method.name, rows, picture)
    pace = next((run for run in active if run.method.name == reference), None)
    while active and not stop():
        run = min(active, key=lambda run: run.rollout.state.seconds if budgets.seconds else run.rollout.state.step)
        if _take_turn(run, start, pace):
            active.remove(run)
            assert run.picture is not None
            yield Measured(run.method.name, run.rows, run.picture)


def _begin(method: Method, start: Start, budgets: Budgets) -> _Run:
    optimizer = method.build()
    train, probe = probe_views(start.loss.data.cameras, start.train) if method.guard else (start.train, [])
    sampler = RandomViews(start.loss.data.cameras, train, start.task.batch_views, start.task.seed)
    state = RolloutState.start(start.scene, optimizer, method.average, features=start.features)
    horizon = max(budgets.steps, default=None)
    hold = None if method.hold is None else method.hold(start)
    worth = head_start(start.task.init)
    rollout = Rollout(
        start.loss, train, optimizer, sampler, state, horizon, probe, method.guard, proximal=hold, head_start=worth
    )
    seconds = math.inf if budgets.steps else max(budgets.seconds)
    records = rollout.run(sys.maxsize if horizon is None else horizon, time_budget=seconds)
    loss = SQUARED_ERROR if Need.SQUARED_ERROR_MODEL in optimizer.needs else PHOTOMETRIC
    return _Run(method, loss, rollout, records, _due(budgets))


def _due(budgets: Budgets) -> dict[str, list[float]]:
    return {"steps": list(budgets.steps), "seconds": list(budgets.seconds)}


def _log_failure(method: Method, start: Start) -> None:
    name = start.loss.data.name
    logging.getLogger(__name__).exception("%s failed on %s (%s)", method.name, name, start.task.setting)


def _take_turn(run: _Run, start: Start, pace: _Run | None) -> bool:
    """Some steps of one method, with the evaluations that fall due; whether it is through."""

    def evaluate_due(kind: str, used: float, point: _Point) -> None:
        due = [budget for budget in run.due[kind] if budget <= used]
        if due:
            run.due[kind] = run.due[kind][len(due) :]
            rows, run.picture = _evaluated(point, {kind: due}, run.method.name, run.loss, start)
            if pace is not None and (done := pace.rollout.state).step:
                ms = 1000 * done.seconds / done.step
                rows = [replace(row, reference=pace.method.name, reference_ms=ms) for row in rows]
            run.rows += rows

    after = run.now
    for _ in range(TURN_STEPS):
        before = after
        evaluate_due("steps", before.step, before)
        try:
            going_on = next(run.records, None) is not None
        except Exception:
            _log_failure(run.method, start)
            going_on, run.raised = False, True
        after = run.now
        failed = after.outcome != OutcomeKind.OK.value
        evaluate_due("seconds", math.inf if failed else after.seconds, after if failed else before)
        if not going_on:
            evaluate_due("steps", math.inf if failed else after.step, after)
            return True
    return False


def _evaluated(
    point: _Point, due: Mapping[str, Sequence[float]], method: str, loss: str, start: Start
) -> tuple[list[Row], Tensor]:
    """A row for each budget that is due, and the picture."""
    views = list(evaluate(point.scene, start.loss, start.test))
    scores = means([view.scores for view in views])
    psnr, ssim = scores["psnr"], scores["ssim"]
    assert psnr is not None
    assert ssim is not None
    rows = [
        Row(
            task=start.task.key,
            scene=start.loss.data.name,
            method=method,
            seed=start.task.seed,
            kind=kind,
            budget=float(budget),
            step=point.step,
            psnr=psnr,
            ssim=ssim,
            seconds=point.seconds,
            seconds_render=point.seconds_render,
            seconds_update=point.seconds_update,
            gaussians=len(point.scene),
            outcome=point.outcome,
            guard_actions=point.guard_actions,
            seconds_guard=point.seconds_guard,
            loss=loss,
        )
        for kind, budgets in due.items()
        for budget in budgets
    ]
    return rows, next(view.image for view in views if view.view == start.shown)
