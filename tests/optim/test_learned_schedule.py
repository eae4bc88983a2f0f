"""`learned-schedule`: Adam's updates times one factor per group and step, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learn2splat.optim.adam import Adam
from learn2splat.optim.learned.moments import GROUPS
from learn2splat.optim.learned.schedule import LearnedSchedule
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.scene.gaussians import GaussianScene
from tests.conftest import random_scene
from tests.optim.test_optimizers import context

N = 8
RATES = GroupRates(means=0.02)


def schedule() -> LearnedSchedule:
    return LearnedSchedule(Adam(RATES, PowerDecay(30.0, 20.0, 0.5), damping=0.2), knots=(0, 9, 99))


def groups(scene: GaussianScene) -> dict[str, torch.Tensor]:
    tensors = dict(scene.items())
    sh = tensors.pop("sh")
    return {**tensors, "sh0": sh[:, :1], "shN": sh[:, 1:]}


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("group", GROUPS)
def test_a_factor_scales_its_group_alone(group: str, degree: int) -> None:
    one, scene, grads = schedule().eval(), random_scene(N, degree=degree), random_scene(N, seed=1, degree=degree)
    plain, _ = one.adam.update(grads, one.init(scene), scene, context(9, N))
    with torch.no_grad():
        one.log_step[GROUPS.index(group), 1] = 0.5
    scaled, _ = one.update(grads, one.init(scene), scene, context(9, N))
    factor = math.exp(2.5 * math.tanh(0.5 / 2.5))
    for name, tensor in groups(plain).items():
        expected = tensor * (factor if name == group else 1.0)
        torch.testing.assert_close(groups(scaled)[name], expected, rtol=1e-6, atol=0, msg=name)


def test_it_sees_the_number_of_steps_only() -> None:
    one, scene, grads = schedule().eval(), random_scene(N), random_scene(N, seed=1)
    with torch.no_grad():
        one.log_step.copy_(torch.randn(len(GROUPS), 3, generator=torch.Generator().manual_seed(0)))
    assert sum(parameter.numel() for parameter in one.parameters()) == len(GROUPS) * 3
    ctx = replace(context(4, N), horizon=None)
    other = replace(ctx, horizon=7, train_views=3, batch_views=1, loss=5.0)
    first, second = (one.update(grads, one.init(scene), scene, c)[0] for c in (ctx, other))
    assert all(map(torch.equal, first.tensors(), second.tensors()))


def test_updates_are_differentiable_in_the_factors_in_training_only() -> None:
    """d<update, c> / d s at an untrained knot is <update, c> of its group: the factor is e^s."""
    one, scene, grads = schedule(), random_scene(N), random_scene(N, seed=1)
    weights = random_scene(N, seed=2)
    update, state = one.train().update(grads, one.init(scene), scene, context(99, N))
    inner = {name: (groups(update)[name] * groups(weights)[name]).sum() for name in GROUPS}
    torch.stack(list(inner.values())).sum().backward()
    assert one.log_step.grad is not None
    expected = torch.stack([inner[name].detach() for name in GROUPS]).float()
    torch.testing.assert_close(one.log_step.grad[:, 2], expected, rtol=1e-5, atol=1e-7)
    assert not one.log_step.grad[:, :2].any()
    assert not any(rows.requires_grad for rows in state.rows.values())
    evaluated, _ = one.eval().update(grads, one.init(scene), scene, context(99, N))
    assert not any(tensor.requires_grad for tensor in evaluated.tensors())


def test_a_perturbed_copy_is_reproducible_and_leaves_the_original() -> None:
    one = schedule()
    twins = [one.perturbed(torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(twins[0].log_step, twins[1].log_step)
    assert float(twins[0].log_step.detach().abs().max()) > 0
    assert not one.log_step.any()


def test_bad_knots_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        LearnedSchedule(Adam(), knots=(10, 0))
