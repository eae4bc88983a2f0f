"""scenes x settings x methods x seeds x budgets -> rows: one loop for learned and conventional optimizers alike.

All methods of a task share the photos, the renderer, the loss, the initial scene and the order of views. They are
stepped in turn, a few steps each, so that drift of the machine's speed hits all of them alike.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.views import RandomViews, probe_views
from learn2splat.eval.metrics import evaluate, means
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import Start, Task, prepare
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import Renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState, StepRecord

TURN_STEPS = 10
"""Steps that one method takes before it is the next one's turn."""
ERROR = "error"
"""Outcome of a run whose optimizer raised an exception."""


@dataclass(frozen=True)
class Method:
    """A named optimizer.

    Args:
        name: as in the table.
        build: makes the optimizer anew for each run.
        digest: changes whenever the method does (configuration, weights).
        average: whether the averaged scene is its output.
        guard: whether it is guarded, with probe views where views are few (see `Rollout`).
    """

    name: str
    build: Callable[[], SceneOptimizer]
    digest: str
    average: bool = True
    guard: bool = False


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


@dataclass
class _Run:
    """One method on one task, in progress."""

    method: Method
    rollout: Rollout
    records: Iterator[StepRecord]
    due_steps: list[int]
    due_seconds: list[float]
    rows: list[Row] = field(default_factory=list)
    picture: Tensor | None = None
    raised: bool = False


def run_task(
    task: Task,
    methods: Sequence[Method],
    budgets: Budgets,
    store: RowStore,
    renderer: Renderer,
    data: SceneData | None = None,
    device: torch.device | str = "cpu",
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
    """
    for method in methods:
        store.register(method.name, method.digest)
    missing = [method for method in methods if not store.has(task.key, method.name, budgets.key)]
    if not missing:
        return
    start = prepare(task, renderer, data, device)
    store.register_task(task.key, start.digest)
    for found in measure(start, missing, budgets):
        store.add(task.key, found.method, budgets.key, found.rows)


def measure(
    start: Start, methods: Sequence[Method], budgets: Budgets, stop: Callable[[], bool] = lambda: False
) -> Iterator[Measured]:
    """Run ``methods`` in turn; each is yielded once it is through.

    The next turn is always that of the method that is furthest behind, in seconds when there are budgets in seconds.

    Args:
        start: what they are given.
        methods: who competes.
        budgets: when to evaluate.
        stop: asked before each turn; True ends all without another result.
    """
    active = [_begin(method, start, budgets) for method in methods]
    while active and not stop():
        run = min(active, key=lambda run: run.rollout.state.seconds if budgets.seconds else run.rollout.state.step)
        if _take_turn(run, start):
            active.remove(run)
            assert run.picture is not None
            yield Measured(run.method.name, run.rows, run.picture)


def _begin(method: Method, start: Start, budgets: Budgets) -> _Run:
    optimizer = method.build()
    train, probe = probe_views(start.loss.data.cameras, start.train) if method.guard else (start.train, [])
    sampler = RandomViews(start.loss.data.cameras, train, start.task.batch_views, start.task.seed)
    state = RolloutState.start(start.scene, optimizer, method.average)
    horizon = max(budgets.steps, default=None)
    rollout = Rollout(start.loss, train, optimizer, sampler, state, horizon, probe, method.guard)
    seconds = math.inf if budgets.steps else max(budgets.seconds)
    records = rollout.run(sys.maxsize if horizon is None else horizon, time_budget=seconds)
    return _Run(method, rollout, records, list(budgets.steps), list(budgets.seconds))


def _take_turn(run: _Run, start: Start) -> bool:
    """Some steps of one method, with the evaluations that fall due; whether it is through."""
    for _ in range(TURN_STEPS):
        _evaluate_due(run, start)
        try:
            going_on = next(run.records, None) is not None
        except Exception:
            name = start.loss.data.name
            logging.getLogger(__name__).exception("%s failed on %s (%s)", run.method.name, name, start.task.setting)
            going_on, run.raised = False, True
        if not going_on:
            _evaluate_due(run, start, ended=True)
            return True
    return False


def _evaluate_due(run: _Run, start: Start, ended: bool = False) -> None:
    state = run.rollout.state
    outcome = run.rollout.outcome()
    failed = run.raised or outcome.kind is not OutcomeKind.OK
    due: list[tuple[str, float]] = []
    while run.due_steps and (run.due_steps[0] <= state.step or (ended and failed)):
        due.append(("steps", run.due_steps.pop(0)))
    while run.due_seconds and (run.due_seconds[0] <= state.seconds or (ended and failed)):
        due.append(("seconds", run.due_seconds.pop(0)))
    if not due:
        return
    views = list(evaluate(state.best if run.raised else outcome.scene, start.loss, start.test))
    run.picture = next(view.image for view in views if view.view == start.shown)
    scores = means([view.scores for view in views])
    psnr, ssim = scores["psnr"], scores["ssim"]
    assert psnr is not None
    assert ssim is not None
    for kind, budget in due:
        run.rows.append(
            Row(
                task=start.task.key,
                scene=start.loss.data.name,
                method=run.method.name,
                seed=start.task.seed,
                kind=kind,
                budget=float(budget),
                step=state.step,
                psnr=psnr,
                ssim=ssim,
                seconds=state.seconds,
                seconds_render=state.seconds_render,
                seconds_update=state.seconds_update,
                gaussians=len(state.scene),
                outcome=ERROR if run.raised else outcome.kind.value,
                guard_actions=state.guard.actions,
                seconds_guard=state.guard.seconds,
            )
        )
