"""scenes x methods x seeds x budgets -> rows: one loop for learned and conventional optimizers alike.

All methods of a task share the photos, the renderer, the loss, the initial scene and the order of views. They are
stepped in turn, a few steps each, so that drift of the machine's speed hits all of them alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.data.views import RandomViews, choose_views, probe_views
from learn2splat.eval.metrics import evaluate
from learn2splat.eval.store import Row, RowStore
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import Renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState, StepRecord
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.initialise import initial_scene
from learn2splat.scene_loss import SceneLoss

TURN_STEPS = 10
"""Steps that one method takes before it is the next one's turn."""


@dataclass(frozen=True)
class Task:
    """What all methods are given alike; see ``configs/optimize.yaml`` for the fields."""

    scene: str
    seed: int = 0
    views: str = "dense"
    init: str = "auto"
    max_size: int = 128
    max_gaussians: int | None = 2000
    sh_degree: int = 3
    batch_views: int = 4
    test_every: int = 8

    @property
    def key(self) -> str:
        """The task as text, equal for equal tasks."""
        return json.dumps(asdict(self), sort_keys=True)


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
    """

    steps: Sequence[int] = (0, 10, 20, 50, 100, 200, 500)
    seconds: Sequence[float] = ()

    @property
    def key(self) -> str:
        """The budgets as text."""
        return json.dumps([list(self.steps), list(self.seconds)])


@dataclass
class _Run:
    """One method on one task, in progress."""

    method: Method
    rollout: Rollout
    records: Iterator[StepRecord]
    rows: list[Row] = field(default_factory=list)
    due_steps: list[int] = field(default_factory=list)
    due_seconds: list[float] = field(default_factory=list)


def run_task(
    task: Task,
    methods: Sequence[Method],
    budgets: Budgets,
    store: RowStore,
    renderer: Renderer,
    data: SceneData | None = None,
) -> None:
    """Run all methods that are not in the store yet, in turn, and store their rows.

    Args:
        task: what to optimise.
        methods: who competes.
        budgets: when to evaluate.
        store: receives the rows of each method once it is through.
        renderer: one for all.
        data: the scene of the task, when it is loaded already.
    """
    for method in methods:
        store.register(method.name, method.digest)
    missing = [method for method in methods if not store.has(task.key, method.name, budgets.key)]
    if not missing:
        return
    data = data or load_scene(task.scene, max_size=task.max_size, test_every=task.test_every)
    train, test = choose_views(data, task.views, task.seed)
    scene = initial_scene(
        data, train, task.init, sh_degree=task.sh_degree, max_gaussians=task.max_gaussians, seed=task.seed
    )
    loss = SceneLoss(data, renderer, PhotometricLoss())
    active = [_begin(method, loss, train, scene, task, budgets) for method in missing]
    while active:
        for run in list(active):
            if _take_turn(run, task, data.name, test):
                store.add(task.key, run.method.name, budgets.key, run.rows)
                active.remove(run)


def _begin(
    method: Method, loss: SceneLoss, train: list[int], scene: GaussianScene, task: Task, budgets: Budgets
) -> _Run:
    optimizer = method.build()
    train, probe = probe_views(loss.data.cameras, train) if method.guard else (train, [])
    sampler = RandomViews(loss.data.cameras, train, task.batch_views, task.seed)
    state = RolloutState.start(scene, optimizer, method.average)
    steps = max(budgets.steps)
    rollout = Rollout(loss, train, optimizer, sampler, state, steps, probe, method.guard)
    return _Run(method, rollout, rollout.run(steps), due_steps=list(budgets.steps), due_seconds=list(budgets.seconds))


def _take_turn(run: _Run, task: Task, scene_name: str, test: Sequence[int]) -> bool:
    """Some steps of one method, with the evaluations that fall due; whether it is through."""
    for _ in range(TURN_STEPS):
        _evaluate_due(run, task, scene_name, test)
        if next(run.records, None) is None:
            _evaluate_due(run, task, scene_name, test, ended=True)
            return True
    return False


def _evaluate_due(run: _Run, task: Task, scene_name: str, test: Sequence[int], ended: bool = False) -> None:
    state = run.rollout.state
    outcome = run.rollout.outcome()
    failed = outcome.kind is not OutcomeKind.OK
    due: list[tuple[str, float]] = []
    while run.due_steps and (run.due_steps[0] <= state.step or (ended and failed)):
        due.append(("steps", run.due_steps.pop(0)))
    while run.due_seconds and (run.due_seconds[0] <= state.seconds or (ended and failed)):
        due.append(("seconds", run.due_seconds.pop(0)))
    if not due:
        return
    views = evaluate(outcome.scene, run.rollout.scene_loss, test)
    for kind, budget in due:
        run.rows.append(
            Row(
                task=task.key,
                scene=scene_name,
                method=run.method.name,
                seed=task.seed,
                kind=kind,
                budget=float(budget),
                step=state.step,
                psnr=math.fsum(view.psnr for view in views) / len(views),
                ssim=math.fsum(view.ssim for view in views) / len(views),
                seconds=state.seconds,
                seconds_render=state.seconds_render,
                seconds_update=state.seconds_update,
                gaussians=len(state.scene),
                outcome=outcome.kind.value,
                guard_actions=state.guard.actions,
                seconds_guard=state.guard.seconds,
            )
        )
