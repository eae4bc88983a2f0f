"""Compiled steps are the plain ones, to rounding; a compiler that fails costs speed only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from learn2splat import native
from learn2splat.optim import fusing
from learn2splat.optim.ages import correction
from learn2splat.optim.fusing import Compiled, compiled, pays
from learn2splat.scene.lineage import Lineage
from tests.conformance.test_every_optimizer import make
from tests.conftest import random_scene
from tests.optim.test_learned_rule import context

MODULES = {"l2s": "learn2splat.optim.learned.rule", "adam-tuned": "learn2splat.optim.adam"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_compiled_steps_are_the_plain_ones_and_compiled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of Gaussians, the first step and those after a densification included."""
    optimizer = make(name)
    monkeypatch.setattr(native, "library", lambda: None)
    torch.compiler.reset()
    compiled.cache_clear()
    counters.clear()
    found: dict[bool, list[Tensor]] = {}
    for fuses in (False, True):
        monkeypatch.setattr(f"{MODULES[name]}.pays", lambda device, horizon, fuses=fuses: fuses)
        scene = random_scene(50, dtype=torch.float64)
        state, found[fuses] = optimizer.init(scene), []
        for step in range(6):
            if step == 3:
                lineage = Lineage(torch.cat([torch.arange(7, 50), torch.arange(20)]), torch.arange(63) >= 43)
                scene, state = scene.take(lineage.parent), optimizer.reindex(state, lineage)
            grads = random_scene(len(scene), seed=step + 1, dtype=torch.float64)
            given = replace(context(step, len(scene)), photo_side_px=64)
            update, state = optimizer.update(grads, state, scene, given)
            found[fuses] += [*update.tensors(), *state.rows.values(), *state.shared.values()]
    assert all(tensor.dtype == other.dtype for tensor, other in zip(found[True], found[False], strict=True))
    torch.testing.assert_close(found[True], found[False], rtol=1e-9, atol=1e-13)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_long_runs_on_a_gpu_are_compiled() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert pays(gpu, fusing.LONG)
    assert not pays(gpu, 2000)
    assert not pays(gpu, None)
    assert not pays(cpu, fusing.LONG)


def test_without_a_compiler_steps_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Tensor:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: broken)
    double = Compiled(lambda x: 2 * x)
    with pytest.warns(UserWarning, match=r"slower: no compiler$"):
        assert double(torch.ones(1)).item() == 2
    assert double(torch.ones(1)).item() == 2


def test_a_compiler_that_fails_later_costs_speed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_only(x: Tensor) -> Tensor:
        if len(x) > 1:
            raise RuntimeError("too large")
        return 2 * x

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: small_only)
    double = Compiled(lambda x: 2 * x)
    assert double(torch.ones(1)).item() == 2
    with pytest.warns(UserWarning, match="too large"):
        assert double(torch.ones(2)).sum() == 4


def test_what_the_step_itself_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(x: Tensor) -> Tensor:
        raise ValueError("not this one")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    with pytest.raises(ValueError, match="not this one"):
        Compiled(refuses)(torch.ones(1))


def test_corrections_are_computed_when_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    ages = torch.tensor([0, 1, 2, 10, 1000, 10**6])
    for decay in (0.0, 0.9, 0.999):
        for power in (0.5, 1.0):
            for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
                read = correction(decay, power, ages, dtype)
                with monkeypatch.context() as during:
                    during.setattr(torch.compiler, "is_compiling", lambda: True)
                    torch.testing.assert_close(correction(decay, power, ages, dtype), read, rtol=tolerance, atol=0)
