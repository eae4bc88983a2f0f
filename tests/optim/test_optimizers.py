"""Every optimizer reduces to a known one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch

from learn2splat import native
from learn2splat.optim.adam import Adam
from learn2splat.optim.ages import correction
from learn2splat.optim.base import Need, SceneOptimizer, StepContext, apply_update
from learn2splat.optim.rates import GroupRates, PositionDecay, PowerDecay
from learn2splat.optim.sgd import Sgd
from learn2splat.optim.torch_bridge import TorchOptimizer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from tests.conftest import random_scene

EXTENT = 2.5
STEPS = 25


def context(step: int, count: int, horizon: int | None = 100, footprint: torch.Tensor | None = None) -> StepContext:
    return StepContext(
        step=step,
        horizon=horizon,
        batch_views=4,
        train_views=20,
        extent_world=EXTENT,
        visible=torch.ones(count, dtype=torch.bool),
        loss=0.1,
        pixel_footprint_world=footprint,
    )


def gradients(seed: int) -> GaussianScene:
    return random_scene(7, seed=seed + 100)


def run(optimizer: SceneOptimizer) -> GaussianScene:
    scene = random_scene(7)
    state = optimizer.init(scene)
    for step in range(STEPS):
        update, state = optimizer.update(gradients(step), state, scene, context(step, 7))
        scene = apply_update(scene, update)
    return scene


def run_torch(build: Callable[..., torch.optim.Optimizer], decay: float, **options: Any) -> GaussianScene:
    """The same steps with one `torch.optim` optimizer over gsplat-style groups."""
    scene = random_scene(7)
    rates = GroupRates()
    groups = {name: tensor.clone().requires_grad_() for name, tensor in scene.items() if name != "sh"}
    groups["sh0"] = scene.sh[:, :1].clone().requires_grad_()
    groups["shN"] = scene.sh[:, 1:].clone().requires_grad_()

    def rate(name: str, step: int) -> float:
        value = getattr(rates, name)
        return value * EXTENT * decay ** (step / 100) if name == "means" else value

    optimizer = build([{"params": [p], "lr": rate(name, 0), "name": name} for name, p in groups.items()], **options)
    for step in range(STEPS):
        grads = dict(gradients(step).items())
        sh = grads.pop("sh")
        for name, grad in {**grads, "sh0": sh[:, :1], "shN": sh[:, 1:]}.items():
            groups[name].grad = grad
        for group in optimizer.param_groups:
            group["lr"] = rate(group["name"], step)
        optimizer.step()
    tensors = {name: tensor.detach() for name, tensor in groups.items()}
    sh = torch.cat([tensors.pop("sh0"), tensors.pop("shN")], dim=1)
    return GaussianScene(**tensors, sh=sh)


def assert_same(ours: GaussianScene, theirs: GaussianScene, tolerance: float = 1e-10) -> None:
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, getattr(theirs, name), rtol=0, atol=tolerance, msg=name)


def test_adam_is_torch_adam() -> None:
    assert_same(run(Adam()), run_torch(torch.optim.Adam, 0.01, eps=1e-15))


def test_adam_without_decay_is_torch_adam() -> None:
    ours = run(Adam(schedule=PositionDecay(final=1.0), beta1=0.8, beta2=0.95, eps=1e-3))
    assert_same(ours, run_torch(torch.optim.Adam, 1.0, eps=1e-3, betas=(0.8, 0.95)))


def test_sgd_is_torch_sgd() -> None:
    ours = run(Sgd(GroupRates(), PositionDecay(final=1.0), momentum=0.7))
    assert_same(ours, run_torch(torch.optim.SGD, 1.0, momentum=0.7))


@pytest.mark.parametrize(
    "build",
    [
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.RMSprop,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adagrad,
        torch.optim.Rprop,
        torch.optim.ASGD,
        partial(torch.optim.SGD, momentum=0.9),
        torch.optim.Adafactor,
    ],
)
def test_bridge_is_the_torch_optimizer_it_wraps(build: Callable[..., torch.optim.Optimizer]) -> None:
    assert_same(run(TorchOptimizer(build)), run_torch(build, 0.01))


def test_damping_one_and_no_momentum_is_twice_rmsprop_like_adam() -> None:
    """With beta1 = 0 the first moment is the gradient, so damping 1 doubles every update."""
    plain, damped = Adam(beta1=0.0), Adam(beta1=0.0, damping=1.0)
    scene = random_scene(7)
    once, _ = plain.update(gradients(0), plain.init(scene), scene, context(0, 7))
    twice, _ = damped.update(gradients(0), damped.init(scene), scene, context(0, 7))
    assert_same(once.map(lambda tensor: 2 * tensor), twice, 1e-14)


def test_footprint_unit_scales_with_the_world() -> None:
    """World, gradient and footprint scaled together: the means' update scales, all others stay."""
    optimizer = Adam(rates=GroupRates(means=0.01, means_unit="footprint"))
    assert Need.PIXEL_FOOTPRINT in optimizer.needs
    scene, grads = random_scene(7), gradients(0)
    footprint = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    one, _ = optimizer.update(grads, optimizer.init(scene), scene, context(0, 7, footprint=footprint))
    grown = GaussianScene(grads.means / 100, grads.log_scales, grads.quats, grads.logit_opacities, grads.sh)
    two, _ = optimizer.update(grown, optimizer.init(scene), scene, context(0, 7, footprint=100 * footprint))
    torch.testing.assert_close(two.means, 100 * one.means)
    torch.testing.assert_close(two.sh, one.sh)


def test_missing_footprint_is_named() -> None:
    optimizer, scene = Adam(rates=GroupRates(means_unit="footprint")), random_scene(7)
    with pytest.raises(ValueError, match="pixel_footprint_world"):
        optimizer.update(gradients(0), optimizer.init(scene), scene, context(0, 7))


def test_schedules_have_their_closed_form() -> None:
    assert PositionDecay(final=0.01).factor("means", context(50, 1)) == pytest.approx(0.1)
    assert PositionDecay(final=0.01).factor("sh", context(50, 1)) == 1.0
    unknown = PositionDecay(final=0.01, steps_if_unknown=1000).factor("means", context(500, 1, horizon=None))
    assert unknown == pytest.approx(0.1)
    assert PowerDecay(40, 20, 0.5).factor("means", context(60, 1)) == pytest.approx(20.0)


@pytest.mark.parametrize("bad", [{"means_unit": "pixels"}, {"quats": -1.0}, {"sh0": float("nan")}])
def test_bad_rates_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        GroupRates(**bad)


@pytest.mark.parametrize("unit", ["extent", "footprint"])
@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_the_fused_step_equals_the_plain_one(unit: Literal["extent", "footprint"], count: int) -> None:
    if native.library() is None:
        pytest.skip(f"no compiled library: {native.why_missing()}")
    optimizer = Adam(GroupRates(means=0.3, means_unit=unit), damping=0.2, eps=1e-8)
    exact, fast = random_scene(count), random_scene(count, dtype=torch.float32)
    states = [optimizer.init(exact), optimizer.init(fast)]
    footprint = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    mixed = Lineage(torch.arange(count), torch.arange(count) % 3 == 0)
    for step in range(8):
        if step == 4:  # from here on, rows of different ages
            states = [optimizer.reindex(state, mixed) for state in states]
        grads, ctx = random_scene(count, seed=step + 1), context(step, count, footprint=footprint)
        one, states[0] = optimizer.update(grads, states[0], exact, ctx)
        two, states[1] = optimizer.update(grads.to(dtype=torch.float32), states[1], fast, ctx)
        for name, tensor in one.items():
            largest = float(tensor.abs().max()) if count else 0.0  # moments that cancel are compared with the largest
            torch.testing.assert_close(getattr(two, name).double(), tensor, rtol=2e-5, atol=2e-6 * largest, msg=name)
    for name, rows in states[0].rows.items():
        torch.testing.assert_close(states[1].rows[name].double(), rows.double(), rtol=2e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("decay", [0.0, 0.8, 0.999])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_bias_corrections_have_their_closed_form_at_every_age(decay: float, power: float) -> None:
    ages = torch.tensor([1, 2, 3, 10, 1000, 40_000, 10_000_000])
    expected = (1 - decay ** ages.double()) ** -power
    torch.testing.assert_close(correction(decay, power, ages, torch.float64), expected, rtol=1e-14, atol=0)
    found = correction(decay, power, ages.int()[:, None], torch.float32)
    assert torch.equal(found, expected.float()[:, None])
