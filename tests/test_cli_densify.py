"""`l2s optimize --densify`: who densifies, resume, and what a long run is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from learn2splat.api import open_session, optimize
from learn2splat.optim.adam import Adam
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.run_config import compose_run
from learn2splat.session import Listener, Session
from tests.test_cli import FAST, SCENE, l2s


@pytest.mark.parametrize(
    ("settings", "overrides", "densifier"),
    [
        ({"steps": 3000}, [], "AdaptiveDensityControl"),
        ({"steps": 2999}, [], "NoDensifier"),
        ({"steps": 3000, "views": "sparse:3"}, [], "NoDensifier"),
        ({"steps": 10, "densify": "auto"}, [], "NoDensifier"),
        ({"steps": 10, "densify": "default"}, [], "AdaptiveDensityControl"),
        ({"steps": 3000, "densify": "none"}, [], "NoDensifier"),
        ({"time_budget": 60}, [], "AdaptiveDensityControl"),
        ({"time_budget": 60, "steps": 2999}, [], "NoDensifier"),
        ({"time_budget": 60, "views": "sparse:3"}, [], "NoDensifier"),
        ({"steps": 10}, ["densify=mcmc", "densify.growth=1.1"], "Mcmc"),
        ({"steps": 10}, ["densify.grow_gradient=1e-4"], "AdaptiveDensityControl"),
    ],
)
def test_long_dense_runs_densify_unless_they_are_told(
    settings: dict[str, object], overrides: list[str], densifier: str
) -> None:
    config = compose_run({"scene": SCENE, **settings}, overrides).config
    assert config.densify._target_.endswith(f".{densifier}")


def evaluated(run: str) -> list[dict[str, object]]:
    """The evaluations of a run without its times."""
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k and k != "peak_memory_mb"} for row in rows]


def test_a_run_with_a_time_budget_alone_has_no_bound_on_steps_and_no_horizon(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = [argument for argument in FAST if argument != "--quiet"]
    assert l2s("optimize", *loud, "--time-budget", "0.4", "--out", "run", "eval_seconds=[0.1,0.2]", "eval_at=[]") == 0
    assert "report" in capsys.readouterr().out
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert summary["outcome"] == "ok"
    assert summary["seconds"] >= 0.4
    assert summary["guard"]["mode"] == "on"
    seconds = [json.loads(line)["seconds"] for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [sum(second >= due for second in seconds) for due in (0.1, 0.2, 0.4)] == [3, 2, 1]
    config = OmegaConf.load(here / "run" / "config.yaml")
    del config["eval_seconds"]  # as of a version that did not have it
    OmegaConf.save(config, here / "run" / "config.yaml")
    flags = {"out": "run", "time_budget": 0.8}
    session = open_session(flags, resume=True)
    assert session.config.steps is None
    assert session.steps == sys.maxsize
    assert session.rollout.horizon is session.rollout.growth.horizon is None
    assert 0.5 <= session.progress < 1
    assert l2s("optimize", *FAST, "--out", "none", "steps=null") == 2
    assert "time_budget" in capsys.readouterr().err
    assert l2s("optimize", *FAST, "--time-budget", "1000", "--steps", "2", "--out", "bounded") == 0
    assert json.loads((here / "bounded" / "summary.json").read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("densify", "constants", "stops"), [("default", ["densify.grow_gradient=1e-5"], (9, 10)), ("mcmc", [], (12,))]
)
def test_a_growing_run_is_interrupted_and_resumed_to_the_same_ply(
    here: Path, densify: str, constants: list[str], stops: tuple[int, ...]
) -> None:
    growing = [*FAST, "--steps", "24", "--densify", densify, "--eval-at", "0", *constants]
    growing[growing.index("300")] = "420"
    assert l2s("optimize", *growing, "--out", "straight") == 0
    for stop in stops:  # it refines once, after step 10
        stopped = iter(range(stop))
        flags = {"scene": SCENE, "max_gaussians": 420, "sh_degree": 1, "batch_views": 2, "steps": 24}
        flags |= {"densify": densify, "eval_at": [0], "out": f"cut-{stop}"}
        session = open_session(flags, constants)
        session.run(Listener(), lambda left=stopped: next(left, None) is None)
        assert l2s("optimize", "--resume", "--quiet", "--out", f"cut-{stop}") == 0
        assert (here / f"cut-{stop}" / "point_cloud.ply").read_bytes() == (
            here / "straight" / "point_cloud.ply"
        ).read_bytes()
        assert evaluated(f"cut-{stop}") == evaluated("straight")
    rows = evaluated("straight")
    assert rows[0]["gaussians"] < rows[-1]["gaussians"] <= 420


class Rows(Listener):
    """Beside each row, the Gaussians of the scene that it is about and of the one that is optimised."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int, int]] = []

    def on_start(self, session: Session) -> None:
        self.rollout = session.rollout

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self.counts.append((row["gaussians"], len(self.rollout.outcome().scene), len(self.rollout.state.scene)))


def test_the_gaussians_beside_a_result_are_those_of_the_scene_that_was_evaluated() -> None:
    """Every step is uphill, so that the start stays the best scene while Gaussians are born."""
    rows, uphill = Rows(), Adam(GroupRates(), PowerDecay(scale=-0.1))
    options = {"steps": 14, "guard": "on", "densify": "mcmc", "max_gaussians": 420, "sh_degree": 0, "eval_at": [0]}
    optimize(SCENE, optimizer=uphill, listener=rows, **options)
    assert all(shown == evaluated for shown, evaluated, _ in rows.counts)
    assert rows.counts[-1][2] > rows.counts[-1][0] == rows.counts[0][0]


def test_a_long_run_says_what_it_will_take(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loud = [argument for argument in FAST if argument != "--quiet"]
    assert l2s("optimize", *loud, "--steps", "12", "--out", "short") == 0
    assert "per step" not in capsys.readouterr().out
    assert l2s("optimize", *loud, "--steps", "31", "--densify", "mcmc", "--out", "run", "estimate_from=31") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ms per step: about 0:00:0" in printed
    assert "at 300 Gaussians" in printed
