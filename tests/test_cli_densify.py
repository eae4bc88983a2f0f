"""`l2s optimize --densify`: who densifies, resume, and what a long run is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learn2splat.api import open_session
from learn2splat.run_config import compose_run
from learn2splat.session import Listener
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
        ({"steps": 10}, ["densify=mcmc", "densify.growth=1.1"], "Mcmc"),
        ({"steps": 10}, ["densify.grow_gradient=1e-4"], "AdaptiveDensityControl"),
    ],
)
def test_long_dense_runs_densify_unless_they_are_told(
    settings: dict[str, object], overrides: list[str], densifier: str
) -> None:
    config = compose_run({"scene": SCENE, **settings}, overrides).config
    assert config.densify._target_.endswith(f".{densifier}")


def test_a_growing_run_is_interrupted_and_resumed_to_the_same_ply(here: Path) -> None:
    growing = [*FAST, "--steps", "24", "--densify", "default", "--eval-at", "0", "densify.grow_gradient=1e-5"]
    growing[growing.index("300")] = "420"
    assert l2s("optimize", *growing, "--out", "straight") == 0
    for stop in (9, 10):  # it refines once, after step 10
        stopped = iter(range(stop))
        flags = {"scene": SCENE, "max_gaussians": 420, "sh_degree": 1, "batch_views": 2, "steps": 24}
        flags |= {"densify": "default", "eval_at": [0], "out": f"cut-{stop}"}
        session = open_session(flags, ["densify.grow_gradient=1e-5"])
        session.run(Listener(), lambda left=stopped: next(left, None) is None)
        assert l2s("optimize", "--resume", "--quiet", "--out", f"cut-{stop}") == 0
        assert (here / f"cut-{stop}" / "point_cloud.ply").read_bytes() == (
            here / "straight" / "point_cloud.ply"
        ).read_bytes()
    rows = [json.loads(line) for line in (here / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["gaussians"] < rows[-1]["gaussians"] <= 420


def test_a_long_run_says_what_it_will_take(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loud = [argument for argument in FAST if argument != "--quiet"]
    assert l2s("optimize", *loud, "--steps", "12", "--out", "short") == 0
    assert "per step" not in capsys.readouterr().out
    assert l2s("optimize", *loud, "--steps", "12", "--densify", "mcmc", "--out", "run", "estimate_from=12") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ms per step: about 0:00:0" in printed
    assert "at 300 Gaussians" in printed
