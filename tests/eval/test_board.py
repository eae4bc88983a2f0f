"""The leaderboard: agrees with other loops, keeps failures, survives kills, joins plugins, opens without a network."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from learn2splat.api import optimize
from learn2splat.board import Board, compose_board
from learn2splat.cli import main
from learn2splat.config import BadConfigError, build
from learn2splat.data.views import RandomViews
from learn2splat.errors import UserError
from learn2splat.eval import methods
from learn2splat.eval.leaderboard import tables
from learn2splat.eval.metrics import evaluate, means
from learn2splat.eval.store import Row, RowStore
from learn2splat.eval.task import prepare
from learn2splat.eval.workers import kept_scene
from learn2splat.optim.learned.pretrained import INITIALISER, save_pretrained
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.ply import write_ply
from tests.test_start import SMALL as NETWORK
from tests.test_start import TARGET

SCENES = ("procedural:seed=3,views=9,width=32", "procedural:seed=5,views=9,width=32")
TINY = ["max_gaussians=60", "sh_degree=1", "batch_views=2", "workers=1"]
SMALL = [*TINY, "budgets.steps=[0,3,12]", "budgets.seconds=[]"]
BROKEN = """
from dataclasses import replace
from learn2splat.eval.methods import method
from learn2splat.optim.adam import Adam

def Hot():
    adam = method("adam-tuned").build()
    adam.schedule = replace(adam.schedule, scale=100 * adam.schedule.scale)
    return adam

class Clumsy(Adam):
    def update(self, grads, state, scene, context):
        if context.step == 5:
            raise RuntimeError("not today")
        return super().update(grads, state, scene, context)

class Nothing:
    pass
"""


def board(
    out: Path,
    *overrides: str,
    optimizers: str = "adam",
    scenes: tuple[str, ...] = SCENES[:1],
    settings: str = "dense",
) -> Board:
    flags = {"out": out, "optimizers": optimizers, "scenes": scenes, "settings": settings}
    return Board(compose_board(flags, [*SMALL, *overrides]))


def measured(*arguments: object, **named: object) -> list[Row]:
    found = board(*arguments, **named)  # type: ignore[arg-type]
    found.measure()
    return found.rows()


def values(rows: list[Row]) -> set[tuple[object, ...]]:
    """All that does not depend on the clock."""
    return {(r.task, r.method, r.kind, r.budget, r.step, r.psnr, r.ssim, r.gaussians, r.outcome) for r in rows}


@pytest.mark.parametrize(
    ("setting", "steps"), [("dense", 12), ("sparse:3", 12), ("dense+random", 12), ("sparse:3", 300), ("dense", 520)]
)
def test_rows_of_adam_are_those_of_optimize(tmp_path: Path, setting: str, steps: int) -> None:
    rows = measured(tmp_path, f"budgets.steps=[0,3,{steps}]", settings=setting)
    views, _, init = setting.partition("+")
    result = optimize(
        SCENES[0],
        optimizer="adam",
        steps=steps,
        eval_at=[0, 3],
        views=views,
        init=init or "auto",
        max_size=96,
        max_gaussians=60,
        sh_degree=1,
        batch_views=2,
        guard="off",
        densify="none",
    )
    assert [(r.budget, r.psnr, r.ssim) for r in rows] == [(m["step"], m["psnr"], m["ssim"]) for m in result.metrics]


def split(scene: GaussianScene) -> list[torch.Tensor]:
    return [*scene.tensors()[:4], scene.sh[:, :1], scene.sh[:, 1:]]


def joined(parameters: list[torch.nn.Parameter]) -> GaussianScene:
    tensors = [parameter.detach().clone() for parameter in parameters]
    return GaussianScene(*tensors[:4], torch.cat(tensors[4:], dim=1))


def test_rows_of_adam_are_those_of_a_loop_on_torch(tmp_path: Path) -> None:
    """`torch.optim.Adam`, 3DGS's decay of the means' rate and a running average come to the same within 1e-4 dB.

    From a start whose Gaussians are not spheres: the rotation of a sphere has no gradient but rounding errors, which
    Adam makes as large as any other.
    """
    steps = 100
    spheres = board(tmp_path)
    scene = prepare(spheres.tasks[0], build(spheres.config.renderer)).scene
    noise = torch.Generator().manual_seed(0)
    write_ply(scene.map(lambda tensor: tensor + 0.1 * torch.randn(tensor.shape, generator=noise)), tmp_path / "a.ply")
    found = board(tmp_path, f"budgets.steps=[0,{steps}]", settings=f"dense+ply:{tmp_path / 'a.ply'}")
    found.measure()
    start = prepare(found.tasks[0], build(found.config.renderer))
    extent = start.loss.data.cameras.take(start.train).extent_world
    rates = (1.6e-4 * extent, 5e-3, 1e-3, 5e-2, 2.5e-3, 1.25e-4)
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in split(start.scene)]
    adam = torch.optim.Adam([{"params": [p], "lr": r} for p, r in zip(parameters, rates, strict=True)], eps=1e-15)
    sampler = RandomViews(start.loss.data.cameras, start.train, 2, 0)
    average = start.scene
    for step in range(steps):
        gradient = start.loss.gradient(joined(parameters), sampler.draw()).grads
        for parameter, grad in zip(parameters, split(gradient), strict=True):
            parameter.grad = grad.clone()
        adam.param_groups[0]["lr"] = rates[0] * 0.01 ** (step / steps)
        adam.step()
        average = average.map(lambda old, new, w=min(1.0, 10 / (step + 1)): old.lerp(new, w), joined(parameters))
    psnr = means([view.scores for view in evaluate(average, start.loss, start.test)])["psnr"]
    assert found.rows()[-1].psnr == pytest.approx(psnr, abs=1e-4)


def test_one_method_under_two_names_differs_by_nothing(tmp_path: Path) -> None:
    rows = measured(tmp_path, optimizers="adam,again=adam", scenes=SCENES)
    (table,) = tables(rows).values()
    for budget in (0, 3, 12):
        entry = table.entry("dense", "steps", budget, "again", "adam")
        assert entry is not None
        assert entry.over_reference is not None
        assert (entry.over_reference.low, entry.over_reference.mean, entry.over_reference.high) == (0, 0, 0)


@pytest.mark.slow
def test_one_method_under_two_names_takes_the_same_time(tmp_path: Path) -> None:
    rows = measured(tmp_path, "budgets.steps=[]", "budgets.seconds=[0.5]", optimizers="adam,again=adam", scenes=SCENES)
    (table,) = tables(rows).values()
    entry = table.entry("dense", "seconds", 0.5, "again", "adam")
    assert entry is not None
    assert entry.time_ratio == pytest.approx(1, rel=0.25)  # in turn: whatever else the machine does hits both
    assert entry.over_reference is not None
    assert abs(entry.over_reference.mean) < 0.2


def test_an_alias_of_an_optimizer_is_not_measured_twice(tmp_path: Path) -> None:
    config = compose_board({"scenes": SCENES[:1], "out": tmp_path})
    named = [entry.name for entry in Board(config).methods]
    assert "l2s" in named  # of which learned-rule is another name
    assert "learned-rule" not in named
    assert {"adam", "adam-tuned", "sgd", "lm"} < set(named)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with optimizers that fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken.py").write_text(BROKEN)
    return tmp_path


def test_failures_are_shown_with_their_outcome(broken: Path) -> None:
    found = board(broken / "out", "plugins=['broken:Hot','broken:Clumsy']", "budgets.steps=[0,2,40]", scenes=SCENES)
    found.measure()
    page = found.write()
    assert page is not None
    outcomes = {(row.scene, row.method): row.outcome for row in found.rows() if row.budget == 40}
    hot = {outcome for (_, name), outcome in outcomes.items() if name == "Hot"}
    assert hot <= {"diverged", "nonfinite"}
    assert len(found.rows()) == 3 * 3 * len(SCENES)
    assert found.missing() == 0
    text = json.loads((broken / "out" / "leaderboard.json").read_text())
    counted = {e["method"]: e["failures"] for e in text["entries"] if e["budget"] == 40}
    assert (counted["adam"], counted["Clumsy"]) == ({}, {"error": 2})
    assert (set(counted["Hot"]), sum(counted["Hot"].values())) == (hot, 2)
    for file in (page, broken / "out" / "leaderboard.md"):
        for outcome in hot:
            assert f"{counted['Hot'][outcome]} {outcome}" in file.read_text()


@pytest.mark.parametrize(
    ("reference", "message"), [("broken:Nothing", "lacks needs"), ("broken:None_", "None_"), ("absent:Class", "absent")]
)
def test_a_plugin_that_is_none_is_bad_input(broken: Path, reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        board(broken / "out", f"plugins=['{reference}']")


def test_parallel_and_serial_cells_are_the_same(broken: Path) -> None:
    serial = measured(broken / "one", "plugins=['broken:Hot']", scenes=SCENES)
    parallel = measured(broken / "two", "plugins=['broken:Hot']", "workers=2", scenes=SCENES)
    assert values(serial) == values(parallel)


def test_budgets_in_seconds_are_monotone_and_timed(tmp_path: Path) -> None:
    rows = measured(tmp_path, "budgets.steps=[]", "budgets.seconds=[0.02,0.05,0.1]", optimizers="adam,sgd")
    for name in ("adam", "sgd"):
        mine = [row for row in rows if row.method == name]
        assert [row.budget for row in mine] == [0.02, 0.05, 0.1]
        for before, after in pairwise(mine):
            assert before.step <= after.step
            assert before.seconds <= before.budget
            assert before.seconds <= after.seconds
    (table,) = tables(rows).values()
    entry = table.entry("dense", "seconds", 0.1, "adam", "adam")
    assert entry is not None
    assert entry.time_ratio == 1.0
    assert entry.ms_per_step == pytest.approx(1000 * mine_of(rows, "adam").seconds / mine_of(rows, "adam").step)


def mine_of(rows: list[Row], name: str) -> Row:
    return [row for row in rows if row.method == name][-1]


@pytest.mark.slow
def test_killed_at_random_and_restarted(tmp_path: Path) -> None:
    """Rows at fixed steps are those of an undisturbed board; cells that were finished keep their seconds."""
    arguments = [*TINY, "workers=2", "budgets.steps=[0,40]", "budgets.seconds=[0.2]"]
    optimizers = "adam,sgd,adam-tuned,adafactor,torch-rmsprop,torch-nadam"  # more than can be done before the last kill
    flags = ["--optimizers", optimizers, "--settings", "dense", "--scenes", SCENES[0]]
    command = [sys.executable, "-m", "learn2splat.cli", "leaderboard", *flags, "--out", "cut", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    chance = random.Random(0)
    kept: set[Row] = set()
    for _ in range(3):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(chance.randint(1, 2)):
            assert "dB" in process.stdout.readline()
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        now = {row for kind in ("steps", "seconds") for row in _stored(tmp_path / "cut" / f"{kind}.sqlite")}
        assert kept < now
        kept = now
    final = board(tmp_path / "cut", *arguments, optimizers=optimizers)
    final.measure()
    assert final.missing() == 0
    assert kept <= set(final.rows())
    straight = measured(tmp_path / "straight", *arguments, "budgets.seconds=[]", optimizers=optimizers)
    assert values([row for row in final.rows() if row.kind == "steps"]) == values(straight)


def _stored(path: Path) -> list[Row]:
    return RowStore(path).rows() if path.exists() else []


def test_shards_add_up_to_the_whole(tmp_path: Path) -> None:
    for shard in ("0/2", "1/2"):
        part = board(tmp_path / "parts", f"shard={shard}", scenes=SCENES)
        part.measure()
        assert part.write() is None
    together = board(tmp_path / "parts", scenes=SCENES)
    assert together.missing() == 0
    assert values(together.rows()) == values(measured(tmp_path / "whole", scenes=SCENES))
    together.write()
    assert (tmp_path / "parts" / "scenes").is_dir()
    assert board(tmp_path / "parts", "remeasure=[adam]", scenes=SCENES).missing() == len(SCENES)
    board(tmp_path / "parts", "shard=5/9", scenes=SCENES).measure()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_launcher_of_hydra_sweeps_the_shards(tmp_path: Path, launcher: str) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    few = ["scenes.captures=[]", "scenes.procedural=2", "scenes.views=9", "max_size=32", "optimizers=[adam]"]
    few += ["settings=[dense]", *SMALL]
    script = Path(__file__).parents[2] / "scripts" / "leaderboard.py"
    command = [sys.executable, str(script), "--multirun", f"out={tmp_path / 'swept'}", f"hydra/launcher={launcher}"]
    subprocess.run([*command, "shard=0/2,1/2", *few], cwd=tmp_path, check=True, capture_output=True)
    swept = Board(compose_board({"out": tmp_path / "swept"}, few))
    assert swept.missing() == 0
    whole = Board(compose_board({"out": tmp_path / "whole"}, few))
    whole.measure()
    assert len(swept.rows()) == 2 * 3
    assert values(swept.rows()) == values(whole.rows())


def test_a_method_that_has_changed_is_refused_until_it_is_measured_again(broken: Path) -> None:
    before = measured(broken / "out", "plugins=['broken:Clumsy']")
    (broken / "broken.py").write_text(BROKEN.replace("context.step == 5", "context.step == 500"))
    del sys.modules["broken"]
    with pytest.raises(UserError, match="'Clumsy' has changed"):
        board(broken / "out", "plugins=['broken:Clumsy']")
    after = measured(broken / "out", "plugins=['broken:Clumsy']", "remeasure=[Clumsy]")
    assert mine_of(before, "Clumsy").outcome == "error"
    assert mine_of(after, "Clumsy").outcome == "ok"
    assert mine_of(before, "adam") == mine_of(after, "adam")


def test_a_scene_that_has_changed_is_refused(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    for seed in (3, 4):
        shutil.rmtree(scene, ignore_errors=True)
        arguments = ["scene", "make", "--seed", str(seed), "--views", "12", "--width", "32", "--out", str(scene)]
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        found = board(tmp_path / "out", optimizers="adam" if seed == 3 else "adam,sgd", scenes=(str(scene),))
        if seed == 3:
            found.measure()
    kept_scene.cache_clear()
    with pytest.raises(UserError, match="has changed since"):
        found.measure()


def test_predictions_and_optimizers_without_gradients_join(tmp_path: Path) -> None:
    net = CompactInitialiser(**NETWORK)
    save_pretrained(net, {"_target_": TARGET, **NETWORK}, tmp_path / "net", {}, INITIALISER)
    made = {"_target_": f"{RecurrentUpdater.__module__}.{RecurrentUpdater.__name__}", "width": 8, "blocks": 1}
    save_pretrained(RecurrentUpdater(width=8, blocks=1), made, tmp_path / "resplat", {})
    optimizers, settings = f"adam,resplat={tmp_path / 'resplat'}", f"sparse:3,sparse:3+predict:{tmp_path / 'net'}"
    rows = measured(tmp_path / "out", "max_size=32", optimizers=optimizers, settings=settings)
    assert len(rows) == 2 * 2 * 3
    assert {row.outcome for row in rows} == {"ok"}
    found = tables(rows)
    predicted = found[settings.partition(",")[2]]
    assert {row.gaussians for row in predicted.rows} == {60}  # of 3 x 8 x 6 as many as are allowed
    assert predicted.mean("steps", 12, "adam") > predicted.mean("steps", 0, "adam")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    scenes = (*SCENES[:1], str(tmp_path / "fox"))
    found = board(tmp_path, scenes=scenes, settings="dense,sparse:99")
    found.measure()
    found.write()
    assert found.missing() == 0
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.json"):
        text = (tmp_path / name).read_text()
        assert "not in .: fox" in text
        assert str(tmp_path) not in text
        assert "sparse:99 asks for 99 context views" in text
    with pytest.raises(UserError, match="no scene"):
        board(tmp_path / "none", scenes=scenes[1:])
    with pytest.raises(UserError, match=r"nothing can be measured.*sparse:99"):
        board(tmp_path / "few", settings="sparse:99").measure()


@pytest.mark.parametrize("override", ["shard=2/2", "seeds=0", "passes=[hours]", "budgets.steps=[5,3]", "workers=0"])
def test_illegal_values_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(BadConfigError, match=override.partition("=")[0]):
        board(tmp_path, override)


def test_an_installed_package_joins_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("sign", "examples.sign_descent:SignDescent", methods.PLUGINS)
    ours = EntryPoint("adam", "examples.sign_descent:SignDescent", methods.PLUGINS)
    monkeypatch.setattr(methods, "entry_points", lambda group: [entry, ours])
    assert type(methods.method("sign").build()).__name__ == "SignDescent"
    assert type(methods.method("adam").build()).__name__ == "Adam"


def test_stopped_and_restarted(tmp_path: Path) -> None:
    """A stop loses the cells that were running, and nothing of those that were through."""
    told: list[str] = []
    first = board(tmp_path / "cut", optimizers="adam,sgd", scenes=SCENES)
    first.tell = told.append
    first.measure(lambda: len(told) == 3)
    kept = first.rows()
    assert first.missing() == 1
    again = board(tmp_path / "cut", optimizers="adam,sgd", scenes=SCENES)
    again.measure()
    assert set(kept) < set(again.rows())
    assert values(again.rows()) == values(measured(tmp_path / "straight", optimizers="adam,sgd", scenes=SCENES))
