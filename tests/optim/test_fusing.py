"""Compiled steps are the plain ones, to rounding; a compiler that fails costs speed only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat import native
from learn2splat.optim import fusing
from learn2splat.optim.ages import correction
from learn2splat.optim.fusing import Compiled, compiled, pays
from tests.conformance.test_every_optimizer import make
from tests.conftest import random_scene
from tests.optim.test_learned_rule import context

MODULES = {"l2s": "learn2splat.optim.learned.rule", "adam-tuned": "learn2splat.optim.adam"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_compiled_steps_are_the_plain_ones_for_any_number_of_gaussians(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = make(name)
    monkeypatch.setattr(native, "library", lambda: None)
    calls = []

    def counted(function: object) -> object:
        calls.append(function)
        return compiled(function)  # type: ignore[arg-type]

    monkeypatch.setattr(f"{MODULES[name]}.compiled", counted)
    for count in (50, 77):
        found: dict[bool, list[Tensor]] = {}
        for fuses in (False, True):
            monkeypatch.setattr(f"{MODULES[name]}.pays", lambda device, horizon, fuses=fuses: fuses)
            scene = random_scene(count, dtype=torch.float64)
            state = optimizer.init(scene)
            for step in range(3):
                grads = random_scene(count, seed=step + 1, dtype=torch.float64)
                update, state = optimizer.update(grads, state, scene, context(step, count))
            found[fuses] = [*update.tensors(), *state.rows.values(), *state.shared.values()]
        assert all(tensor.dtype == other.dtype for tensor, other in zip(found[True], found[False], strict=True))
        torch.testing.assert_close(found[True], found[False], rtol=1e-9, atol=1e-13)
    assert len(calls) == 2 * 3
    assert compiled(calls[0])._call is not compiled(calls[0])._plain  # it did not fall back


def test_long_runs_on_a_gpu_are_compiled() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert pays(gpu, None)
    assert pays(gpu, fusing.LONG)
    assert not pays(gpu, 2000)
    assert not pays(cpu, None)


def test_without_a_compiler_steps_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Tensor:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: broken)
    double = Compiled(lambda x: 2 * x)
    with pytest.warns(UserWarning, match=r"slower: no compiler$"):
        assert double(torch.ones(1)).item() == 2
    assert double(torch.ones(1)).item() == 2


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
