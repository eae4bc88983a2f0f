"""Adam for visible Gaussians, against `torch.optim.Adam` run on each Gaussian alone, and its decoupled decay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learn2splat.optim import ages
from learn2splat.optim.adam import Adam
from learn2splat.optim.adam_visible import AdamVisible
from learn2splat.optim.adamw_gs import AdamWGS
from learn2splat.optim.base import OptimizerState, SceneOptimizer, apply_update, zeros_like
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from tests.conftest import random_scene
from tests.optim.test_optimizers import context

N = 11
RATES = GroupRates(means=0.02)
SCHEDULE = PowerDecay(3.0, 20.0, 0.5)


def visibility(seed: int) -> torch.Tensor:
    return torch.rand(N, generator=torch.Generator().manual_seed(seed)) < 0.5


def run(
    optimizer: SceneOptimizer, masks: list[torch.Tensor], scene: GaussianScene | None = None
) -> tuple[GaussianScene, OptimizerState]:
    """Steps with gradients that are zero where nothing is seen, as a renderer gives them."""
    scene = scene or random_scene(N)
    state = optimizer.init(scene)
    for step, seen in enumerate(masks):
        rows = seen.double()
        grads = random_scene(N, seed=step + 1).map(lambda g, r=rows: g * r.view(-1, *[1] * (g.ndim - 1)))  # type: ignore[misc]
        ctx = replace(context(step, N), visible=seen)
        update, state = optimizer.update(grads, state, scene, ctx)
        scene = apply_update(scene, update)
    return scene, state


def assert_close(one: GaussianScene, two: GaussianScene, tolerance: float = 1e-13) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, getattr(two, name), rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("damping", [0.0, 0.34])
def test_with_everything_visible_it_is_adam(damping: float) -> None:
    masks = [torch.ones(N, dtype=torch.bool)] * 30
    ours, _ = run(AdamVisible(RATES, SCHEDULE, damping=damping), masks)
    theirs, _ = run(Adam(RATES, SCHEDULE, damping=damping), masks)
    assert_close(ours, theirs)


def test_each_gaussian_is_torch_adam_on_the_steps_that_see_it() -> None:
    masks = [visibility(step) for step in range(40)]
    ours, _ = run(AdamVisible(RATES, PowerDecay(3.0)), masks)
    start = random_scene(N)
    for row in range(N):
        parameter = torch.nn.Parameter(start.quats[row].clone())
        adam = torch.optim.Adam([parameter], lr=3.0 * RATES.quats, eps=1e-15)
        for step, seen in enumerate(masks):
            if seen[row]:
                parameter.grad = random_scene(N, seed=step + 1).quats[row].clone()
                adam.step()
        torch.testing.assert_close(ours.quats[row], parameter.detach(), rtol=0, atol=1e-13)


def test_the_unseen_and_their_moments_do_not_move() -> None:
    optimizer, masks = AdamVisible(RATES, SCHEDULE), [visibility(step) for step in range(8)]
    before, state = run(optimizer, masks)
    grads, seen = random_scene(N, seed=99), visibility(99)
    update, after = optimizer.update(grads, state, before, replace(context(8, N), visible=seen))
    for tensor in update.tensors():
        assert not tensor[~seen].any()
        assert tensor[seen].flatten(1).any(dim=1).all() if tensor.ndim > 1 else tensor[seen].all()
    for name, rows in after.rows.items():
        assert torch.equal(rows[~seen], state.rows[name][~seen]), name
        assert not torch.equal(rows[seen], state.rows[name][seen]), name


def test_seen_first_at_step_fifty_it_makes_a_first_step() -> None:
    """|m_hat| / sqrt(v_hat) = 1 there, whereas a shared counter (or none) makes the step longer or shorter."""
    seen = torch.ones(N, dtype=torch.bool)
    seen[3] = False
    optimizer = AdamVisible(RATES, PowerDecay())
    scene, state = run(optimizer, [seen] * 50)
    assert torch.equal(scene.means[3], random_scene(N).means[3])
    grads = random_scene(N, seed=77)
    update, _ = optimizer.update(grads, state, scene, context(50, N))
    torch.testing.assert_close(update.quats[3], -RATES.quats * grads.quats[3].sign(), rtol=1e-12, atol=0)
    torch.testing.assert_close(update.sh[3, 1:], -RATES.shN * grads.sh[3, 1:].sign(), rtol=1e-12, atol=0)


def test_counters_follow_a_lineage_and_the_newborn_begin_anew() -> None:
    optimizer = AdamVisible(RATES, PowerDecay())
    scene, state = run(optimizer, [visibility(step) for step in range(20)])
    lineage = Lineage(torch.tensor([4, 4, 0]), torch.tensor([False, True, False]))
    moved = optimizer.reindex(state, lineage)
    for name in ages.newborn(scene):
        before, after = (rows[name].flatten().tolist() for rows in (state.rows, moved.rows))
        assert after == [before[4], 0, before[0]]
    grads = random_scene(3, seed=5)
    update, _ = optimizer.update(grads, moved, scene.take(lineage.parent), context(20, 3))
    torch.testing.assert_close(update.quats[1], -RATES.quats * grads.quats[1].sign(), rtol=1e-12, atol=0)


def test_without_gradient_opacities_and_sizes_decay_in_closed_form() -> None:
    optimizer = AdamWGS(AdamVisible(RATES, SCHEDULE), opacity_decay=0.3, scale_decay=0.7)
    start = random_scene(N)
    start = replace(start, logit_opacities=torch.linspace(-12, 12, N, dtype=torch.float64))
    scene, state = start, optimizer.init(start)
    seen, sizes = visibility(0), 0.0
    for step in range(25):
        ctx = replace(context(step, N), visible=seen)
        update, state = optimizer.update(zeros_like(scene), state, scene, ctx)
        scene = apply_update(scene, update)
        sizes += SCHEDULE.factor("sh", ctx)
    opacity = torch.exp(torch.tensor(-0.3 * RATES.logit_opacities * sizes, dtype=torch.float64))
    expected = start.logit_opacities.sigmoid() * torch.where(seen, opacity, 1.0)
    torch.testing.assert_close(scene.logit_opacities.sigmoid(), expected, rtol=1e-12, atol=0)
    shrunk = start.log_scales - 0.7 * RATES.log_scales * sizes * seen[:, None].double()
    torch.testing.assert_close(scene.log_scales, shrunk, rtol=1e-12, atol=0)
    assert_close(replace(scene, logit_opacities=start.logit_opacities, log_scales=start.log_scales), start, 0)


def test_the_decay_is_decoupled_from_the_gradient() -> None:
    """What it adds to the update of Adam does not depend on the gradients, however large."""
    adam = AdamVisible(RATES, SCHEDULE)
    optimizer, scene = AdamWGS(adam, 0.3, 0.7), random_scene(N)
    added = []
    for size in (0.0, 1.0, 1e6):
        grads = random_scene(N, seed=1).map(lambda g, s=size: s * g)  # type: ignore[misc]
        ours, _ = optimizer.update(grads, optimizer.init(scene), scene, context(0, N))
        plain, _ = adam.update(grads, adam.init(scene), scene, context(0, N))
        added.append(ours.map(torch.sub, plain))
    assert_close(added[0], added[1], 1e-15)
    assert_close(added[0], added[2], 1e-15)


def test_without_decay_it_is_adam_visible() -> None:
    masks = [visibility(step) for step in range(10)]
    ours, _ = run(AdamWGS(AdamVisible(RATES, SCHEDULE), 0.0, 0.0), masks)
    theirs, _ = run(AdamVisible(RATES, SCHEDULE), masks)
    assert_close(ours, theirs, 0)


def test_bad_decays_are_refused() -> None:
    with pytest.raises(ValueError, match="scale_decay is -1"):
        AdamWGS(AdamVisible(), scale_decay=-1.0)
