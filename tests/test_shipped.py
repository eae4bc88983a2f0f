"""The trained networks that ship with the package: there, whole, of a stated origin, and the default."""

from __future__ import annotations

import json

import pytest
import torch

import learn2splat as l2s
from learn2splat.checkpoint import MANIFEST
from learn2splat.config import build, compose
from learn2splat.errors import UserError
from learn2splat.optim.learned.pretrained import INITIALISER, KIND, SHIPPED, UNCERTAINTY, load_pretrained, shipped

SCENE = "procedural:seed=1,views=10,width=48"


KINDS = (KIND, INITIALISER, UNCERTAINTY)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in shipped(kind)])
def test_each_is_built_from_its_manifest_and_says_how_it_was_made(kind: str, name: str) -> None:
    network = load_pretrained(name, kind)
    assert any(bool(tensor.any()) for tensor in network.parameters())
    assert all(bool(tensor.isfinite().all()) for tensor in network.parameters())
    about = json.loads((SHIPPED / name / MANIFEST).read_text())["config"]["about"]
    assert about["command"][:2] == ["l2s", "meta-train"]
    assert about["best_score"] > about["base_score"]
    assert not any(part.startswith("/") or "=/" in part for part in about["command"])
    assert isinstance(about["config"]["train"]["seed"], int)


def test_the_default_is_the_shipped_rule() -> None:
    assert "learned-rule" in shipped()
    one, two = build(compose("optimize", []).optimizer), l2s.LearnedOptimizer.from_pretrained("l2s")
    assert isinstance(two, torch.nn.Module)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    with pytest.raises(UserError, match="not a learned optimizer"):
        l2s.LearnedOptimizer.from_pretrained("adam")


def test_it_is_ahead_of_standard_adam_from_the_first_steps() -> None:
    found = {
        name: l2s.optimize(SCENE, steps=30, optimizer=name, guard="off").metrics[-1]["psnr"] for name in ("l2s", "adam")
    }
    assert found["l2s"] > found["adam"] + 2


def test_few_views_start_far_ahead_of_sparse_points() -> None:
    def start(init: str) -> float:
        psnr: float = l2s.optimize(SCENE, steps=0, init=init, views="sparse:4").metrics[-1]["psnr"]
        return psnr

    assert start("predict") > start("sfm") + 3


def test_each_initialiser_has_a_head_that_holds_its_gaussians_back() -> None:
    assert shipped(UNCERTAINTY) == [f"{name}-{UNCERTAINTY}" for name in shipped(INITIALISER)]

    def colours(uncertainty: str, steps: int = 20) -> torch.Tensor:
        return l2s.optimize(
            SCENE, steps=steps, init="predict", views="sparse:3", uncertainty=uncertainty, guard="off", average=False
        ).scene.sh

    start, held = colours("off", steps=0), colours("predict")
    assert float((held - start).abs().mean()) < 0.5 * float((colours("off") - start).abs().mean())
    assert torch.equal(colours(shipped(UNCERTAINTY)[0]), held)
