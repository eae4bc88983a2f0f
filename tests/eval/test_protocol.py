"""The harness: fair by construction, resumable, and its statistics against closed forms."""

from __future__ import annotations

import math
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learn2splat.errors import UserError
from learn2splat.eval.methods import method as method_of
from learn2splat.eval.metrics import psnr, ssim
from learn2splat.eval.protocol import Budgets, Method, run_task
from learn2splat.eval.protocol import measure as run
from learn2splat.eval.statistics import differences, guard_use, markdown, oracle, per_scene, summarise, win_rate
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import Start, Task, prepare
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import OptimizerState, SceneOptimizer, StepContext
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.proximal import Proximal
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from tests.test_rollout import capture

TASK = Task("test", init="random", max_gaussians=30, sh_degree=0, batch_views=2)
BUDGETS = Budgets(steps=(0, 3, 7))


def method(name: str, scale: float) -> Method:
    return Method(name, lambda: Adam(GroupRates(), PowerDecay(scale=scale)), digest=str(scale))


def measure(store: RowStore, *methods: Method, budgets: Budgets = BUDGETS) -> list[Row]:
    run_task(TASK, methods, budgets, store, ReferenceRenderer(), capture())
    return store.rows()


def test_equal_methods_get_equal_rows_whatever_runs_beside_them() -> None:
    together = measure(RowStore(":memory:"), method("a", 5.0), method("b", 50.0), method("c", 5.0))
    alone = measure(RowStore(":memory:"), method("a", 5.0))
    found = {name: [(r.budget, r.psnr, r.ssim) for r in together if r.method == name] for name in "abc"}
    assert found["a"] == found["c"] == [(r.budget, r.psnr, r.ssim) for r in alone]
    assert found["a"] != found["b"]
    assert [budget for budget, _, _ in found["a"]] == [0, 3, 7]
    assert found["a"][0] == found["b"][0]  # one initial scene for all


def test_what_is_stored_is_not_measured_again(tmp_path: Path) -> None:
    built = []

    def build() -> SceneOptimizer:
        built.append(1)
        return Adam()

    once = Method("a", build, "1")
    store = RowStore(tmp_path / "rows.sqlite")
    first = measure(store, once)
    assert measure(RowStore(tmp_path / "rows.sqlite"), once) == first
    assert len(built) == 1
    measure(store, once, budgets=Budgets(steps=(0, 2)))
    assert len(built) == 2
    with pytest.raises(UserError, match="'a' has changed"):
        measure(store, method("a", 2.0))


def test_seconds_are_budgets_too() -> None:
    rows = measure(RowStore(":memory:"), method("a", 5.0), budgets=Budgets(steps=(0, 500), seconds=(0.05, 0.1)))
    timed = [row for row in rows if row.kind == "seconds"]
    assert [row.budget for row in timed] == [0.05, 0.1]
    for row in timed:
        assert row.seconds <= row.budget
        assert row.step < 500


class Slow(Adam):
    """Takes its time, for the first update of the process too."""

    loaded = False

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        time.sleep(0.05 if Slow.loaded else 0.5)
        Slow.loaded = True
        return super().update(grads, state, scene, context)


def test_a_budget_in_seconds_is_that_of_the_last_step_within_it_after_a_warm_up() -> None:
    rows = measure(RowStore(":memory:"), Method("slow", Slow, "x"), budgets=Budgets((), seconds=(0.01, 0.4)))
    assert rows[0].step == 0
    assert rows[1].step >= 2
    assert rows[1].seconds_update / rows[1].step < 0.2  # what is loaded at the first update is not counted


def test_times_stand_beside_those_of_the_reference_in_the_same_turns() -> None:
    store = RowStore(":memory:")
    start = prepare(TASK, ReferenceRenderer(), capture(), "cpu")
    budgets = Budgets((), seconds=(0.2,))
    found = {m.method: m.rows[0] for m in run(start, [method("a", 5.0), method("b", 5.0)], budgets, reference="a")}
    for name in "ab":
        assert found[name].reference == "a"
        assert found[name].reference_ms == pytest.approx(1000 * found["a"].seconds / found["a"].step, rel=0.5)
    store.add(TASK.key, "b", budgets.key, [found["b"]])
    assert store.rows() == [found["b"]]


def test_what_fails_before_its_first_step_stays_in_the_table() -> None:
    class Unborn(Adam):
        def init(self, scene: GaussianScene) -> OptimizerState:
            raise RuntimeError("not today")

    rows = measure(RowStore(":memory:"), Method("unborn", Unborn, "x"), method("a", 5.0))
    first = next(row for row in rows if row.method == "a")
    lost = [row for row in rows if row.method == "unborn"]
    assert [(row.budget, row.outcome, row.step) for row in lost] == [(budget, "error", 0) for budget in (0, 3, 7)]
    assert {row.psnr for row in lost} == {first.psnr}


def test_another_loss_is_said() -> None:
    rows = measure(RowStore(":memory:"), method_of("lm"), method_of("lm-photometric"), budgets=Budgets((0, 1)))
    assert {(row.method, row.loss) for row in rows} == {("lm", "squared error"), ("lm-photometric", "photometric")}


def test_failures_stay_in_the_table() -> None:
    bad = Method("bad", lambda: Adam(GroupRates(sh0=float("inf")), PowerDecay()), "x")
    rows = measure(RowStore(":memory:"), bad)
    assert [row.budget for row in rows] == [0, 3, 7]
    assert rows[-1].outcome == "nonfinite"
    assert math.isfinite(rows[-1].psnr)


def test_a_guarded_method_is_another_row_that_tells_how_often_it_acted() -> None:
    def build() -> SceneOptimizer:
        rule = LearnedRule(schedule=PowerDecay(scale=20.0)).eval()
        with torch.no_grad():
            rule.log_step.fill_(5.0)  # steps that are ten times too long
        return rule

    rows = measure(RowStore(":memory:"), Method("bad", build, "x"), Method("bad+guard", build, "x", guard=True))
    assert [row.guard_actions for row in rows if row.method == "bad"] == [0, 0, 0]
    assert [row.guard_actions for row in rows if row.method == "bad+guard"] == [0, 1, 1]
    assert rows[-1].seconds_update > rows[-1].seconds_guard > 0
    assert "acted in 1 of 1 runs, 1.0 times" in guard_use(rows, "bad+guard")
    guarded = method_of("adam+guard")
    assert (guarded.name, guarded.guard, guarded.digest) == ("adam+guard", True, method_of("adam").digest)


def test_a_pull_to_the_initial_scene_of_no_strength_changes_nothing_and_a_strong_one_does() -> None:
    def held(strength: float) -> Method:
        def hold(start: Start) -> Proximal:
            return Proximal(start.scene, start.scene.map(lambda tensor: torch.full_like(tensor, strength)))

        return replace(method(f"held {strength}", 10.0), hold=hold)

    rows = measure(RowStore(":memory:"), method("free", 10.0), held(0.0), held(1.0))
    psnr = {name: [row.psnr for row in rows if row.method == name] for name in ("free", "held 0.0", "held 1.0")}
    assert psnr["free"] == psnr["held 0.0"]
    assert psnr["free"][0] == psnr["held 1.0"][0]
    assert abs(psnr["held 1.0"][-1] - psnr["free"][0]) < abs(psnr["free"][-1] - psnr["free"][0])


def test_rows_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    old = measure(RowStore(tmp_path / "rows.sqlite"), method("a", 5.0))
    with sqlite3.connect(tmp_path / "rows.sqlite") as file:
        file.execute("alter table rows drop column guard_actions")
        for column in ("seconds_guard", "loss", "reference", "reference_ms"):
            file.execute(f"alter table rows drop column {column}")
    again = RowStore(tmp_path / "rows.sqlite")
    assert again.rows() == old
    assert measure(again, method("b", 5.0))[: len(old)] == old


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not a database, by any means" * 50)
    with pytest.raises(UserError, match="not a file of rows"):
        RowStore(tmp_path / "x")


def row(scene: str, name: str, value: float, seed: int = 0, budget: float = 10) -> Row:
    return Row(f"{scene}/{seed}", scene, name, seed, "steps", budget, 10, value, 0.5, 1.0, 0.5, 0.5, 10, "ok")


def test_statistics_have_their_closed_forms() -> None:
    rows = [row("x", "a", 1.0), row("x", "a", 3.0, seed=1), row("y", "a", 4.0), row("z", "a", 9.0)]
    rows += [row("x", "b", 1.5), row("y", "b", 5.0), row("z", "b", 6.0)]
    ours, theirs = per_scene(rows, "a", "steps", 10), per_scene(rows, "b", "steps", 10)
    assert ours == {"x": 2.0, "y": 4.0, "z": 9.0}
    assert differences(ours, theirs) == [0.5, -1.0, 3.0]
    assert win_rate(differences(ours, theirs)) == pytest.approx(2 / 3)
    summary = summarise([2.0, 4.0, 9.0])
    assert (summary.mean, summary.median, summary.worst) == (5.0, 4.0, 2.0)
    best = oracle([r for r in rows if r.seed == 0], ["a", "b"])
    assert per_scene(best, "oracle", "steps", 10) == {"x": 1.5, "y": 5.0, "z": 9.0}
    table = markdown(rows, ["a", "b"], reference="b")
    assert "+0.83" in table
    assert "worst -1.00" in table


def test_bootstrap_interval_covers_the_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        s = summarise(rng.normal(size=40).tolist(), seed=trial)
        covered += s.low <= 0 <= s.high
    assert 0.88 <= covered / 200 <= 0.99


def test_metrics_on_known_pairs() -> None:
    flat = torch.full((20, 30, 3), 0.5)
    assert psnr(flat, flat + 0.1) == pytest.approx(20.0, abs=1e-5)
    assert psnr(flat, flat) == math.inf
    assert ssim(flat, flat) == pytest.approx(1.0, abs=1e-6)
    noise = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(noise, 1 - noise) < 0
