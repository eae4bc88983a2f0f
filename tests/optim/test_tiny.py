"""`l2s-tiny` and `l2s-base`: features and network obey their symmetries, the update its reduction."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learn2splat.config import build, compose
from learn2splat.networks.chunks import by_chunks
from learn2splat.optim.base import CLUSTERS, NEIGHBOURS, StepContext
from learn2splat.optim.learned import network
from learn2splat.optim.learned.features import COUNT, by_group
from learn2splat.optim.learned.moments import GROUPS, scaled_by_group
from learn2splat.optim.learned.network import PointTransformer
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.learned.tiny import STRENGTH_UNIT, LearnedGain
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.scene.clusters import clusters
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.neighbours import nearest_neighbours
from tests.conftest import random_scene

N = 50


def context(scene: GaussianScene, step: int, unit: float = 1.0) -> StepContext:
    count = len(scene)
    squares = random_scene(count, seed=step + 90, dtype=scene.means.dtype).map(torch.square)
    return StepContext(
        step=step,
        horizon=None,
        batch_views=4,
        train_views=12,
        extent_world=2.0 * unit,
        visible=torch.arange(count) % 3 > 0,
        loss=0.1 / (1 + step),
        pixel_footprint_world=unit * torch.linspace(0.01, 0.02, count, dtype=torch.float64),
        view_squares=replace(squares, means=squares.means / unit**2),
        neighbours=nearest_neighbours(scene.means, NEIGHBOURS),
        clusters=clusters(scene.means, CLUSTERS),
    )


def optimizer(trained: bool = True) -> LearnedGain:
    rule = LearnedRule(GroupRates(means=0.02, means_unit="footprint"), PowerDecay(30.0, 20.0, 0.5))
    one = LearnedGain(rule, every=2, dense_until=0).eval()
    if trained:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in one.network.parameters():
                parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator))
    return one


def test_a_trained_network_scales_the_rule_by_gaussian_and_group() -> None:
    one, scene = optimizer(), random_scene(N)
    grads, ctx = random_scene(N, seed=1), context(scene, 0)
    ours, state = one.update(grads, one.init(scene), scene, ctx)
    rules, _ = one.rule.update(grads, one.rule.init(scene), scene, ctx)
    gain = state.rows["gain"].exp()
    assert float(gain.detach().std(dim=0).min()) > 0.01
    ratio = (ours.sh / rules.sh).flatten(1)
    torch.testing.assert_close(ratio[:, :3], gain[:, [GROUPS.index("sh0")]].expand(N, 3))
    torch.testing.assert_close(ratio[:, 3:], gain[:, [GROUPS.index("shN")]].expand(N, 45))
    torch.testing.assert_close(ours.means / rules.means, gain[:, [0]].expand(N, 3))


def test_gains_hold_between_runs_of_the_network() -> None:
    one, scene = optimizer(), random_scene(N)
    _, first = one.update(random_scene(N, seed=1), one.init(scene), scene, context(scene, 0))
    _, second = one.update(random_scene(N, seed=2), first, scene, context(scene, 1))
    _, third = one.update(random_scene(N, seed=3), second, scene, context(scene, 2))
    assert torch.equal(first.rows["gain"], second.rows["gain"])
    assert not torch.equal(second.rows["gain"], third.rows["gain"])
    one.dense_until = 2
    _, dense = one.update(random_scene(N, seed=2), first, scene, context(scene, 1))
    assert not torch.equal(first.rows["gain"], dense.rows["gain"])


def test_the_network_fades_out_and_then_no_longer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    one, scene = optimizer(), random_scene(N)
    one.fades, one.silent = 9, 99
    state = one.update(random_scene(N, seed=1), one.init(scene), scene, context(scene, 0))[1]
    full = state.rows["gain"][:, GROUPS.index("quats"), None]
    monkeypatch.setattr(one, "_think", lambda *_: pytest.fail("it ran"))
    for step, heard in ((7, 1.0), (29, 1 - math.log(30 / 9) / math.log(99 / 9)), (99, 0.0), (500, 0.0)):
        ctx, grads = context(scene, step), random_scene(N, seed=step)
        ours, rules = (o.update(grads, state, scene, ctx)[0].quats for o in (one, one.rule))
        torch.testing.assert_close(ours, rules * (heard * full).exp(), rtol=1e-5, atol=0)


def gains(scene: GaussianScene, grads: GaussianScene, unit: float = 1.0) -> torch.Tensor:
    one = optimizer()
    return one.update(grads, one.init(scene), scene, context(scene, 0, unit))[1].rows["gain"]


def test_gains_do_not_change_when_the_world_is_turned_moved_or_scaled() -> None:
    scene, grads = random_scene(N), random_scene(N, seed=1)
    plain = gains(scene, grads)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    turned = gains(replace(scene, means=scene.means @ rotation.T), replace(grads, means=grads.means @ rotation.T))
    torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-5)
    unit = 100.0
    bigger = replace(
        scene, means=unit * scene.means + 7.0, log_scales=scene.log_scales + torch.tensor(unit).double().log()
    )
    scaled = gains(bigger, replace(grads, means=grads.means / unit), unit)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-5)


def test_gains_do_not_change_with_the_unit_of_the_loss() -> None:
    scene, grads = random_scene(N), random_scene(N, seed=1)
    one, ctx = optimizer(), context(scene, 0)
    assert ctx.view_squares is not None
    factor = 1e-4
    louder = replace(ctx, loss=factor * ctx.loss, view_squares=ctx.view_squares.map(lambda t: t * factor**2))
    quiet = one.update(grads.map(lambda t: factor * t), one.init(scene), scene, louder)[1].rows["gain"]
    torch.testing.assert_close(quiet, gains(scene, grads), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("path", ["neighbours", "clusters", "scene"])
def test_each_path_of_the_network_reaches_whom_it_should(path: str) -> None:
    """With the other two paths cut, a change of one Gaussian is felt by its neighbours, its cluster, or all."""
    pooled = 4
    net = PointTransformer(COUNT, 3, width=16, pooled=pooled).double()
    (block,) = net.blocks
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        if path != "neighbours":
            block.attended.weight.zero_()
        if path != "clusters":
            block.unpool.weight[:, :pooled] = 0
        if path != "scene":
            block.unpool.weight[:, pooled:] = 0
    scene = random_scene(N)
    neighbours, parts = nearest_neighbours(scene.means, 4), clusters(scene.means, 8)
    geometry = torch.zeros(N, 4, 2, dtype=torch.float64)
    inputs = torch.randn(N, COUNT, generator=generator, dtype=torch.float64)
    moved = inputs.clone()
    moved[7] += 1.0
    with torch.no_grad():
        change = net(moved, neighbours, geometry, parts) - net(inputs, neighbours, geometry, parts)
    felt = (change.abs() > 1e-12).any(dim=1)
    reached = {
        "neighbours": (neighbours == 7).any(dim=1),
        "clusters": parts == parts[7],
        "scene": torch.ones(N, dtype=torch.bool),
    }[path]
    reached[7] = True
    assert torch.equal(felt, reached)


def test_a_second_block_reaches_the_neighbours_neighbours() -> None:
    net = PointTransformer(COUNT, 3, width=16, blocks=2).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for block in net.blocks:
            block.unpool.weight.zero_()
        scene = random_scene(N)
        neighbours, parts = nearest_neighbours(scene.means, 3), clusters(scene.means, 8)
        geometry = torch.zeros(N, 3, 2, dtype=torch.float64)
        inputs = torch.randn(N, COUNT, generator=generator, dtype=torch.float64)
        moved = inputs + torch.nn.functional.one_hot(torch.tensor(7), N)[:, None]
        change = net(moved, neighbours, geometry, parts) - net(inputs, neighbours, geometry, parts)
    reads = torch.eye(N).index_put((torch.arange(N)[:, None], neighbours.long()), torch.ones(()))
    assert torch.equal((change.abs() > 1e-12).any(dim=1), (reads @ reads)[:, 7] > 0)


def test_the_strength_of_a_group_scales_the_logarithm_of_its_gains() -> None:
    one, scene, grads = optimizer(), random_scene(N), random_scene(N, seed=1)
    plain, _ = one.update(grads, one.init(scene), scene, context(scene, 0))
    rules, _ = one.rule.update(grads, one.rule.init(scene), scene, context(scene, 0))
    with torch.no_grad():
        one.strength[GROUPS.index("means")] = 0.5
        one.strength[GROUPS.index("quats")] = 0.0
    ours, _ = one.update(grads, one.init(scene), scene, context(scene, 0))
    torch.testing.assert_close((ours.means / rules.means).square(), plain.means / rules.means)
    torch.testing.assert_close(ours.quats, rules.quats)
    assert torch.equal(ours.log_scales, plain.log_scales)


def test_coarse_directions_add_up_to_a_shift_of_all_strength() -> None:
    one = optimizer()
    shifts = [direction["strength"] for direction in one.coarse(12)]
    assert len(shifts) == 2 * len(GROUPS)
    torch.testing.assert_close(sum(shifts), torch.full_like(one.strength, STRENGTH_UNIT))
    assert all(int((shift.abs().sum(dim=1) > 0).sum()) == 1 for shift in shifts)


def test_chunked_equals_unchunked(monkeypatch: pytest.MonkeyPatch) -> None:
    one, scene, grads = optimizer(), random_scene(N), random_scene(N, seed=1)
    whole, _ = one.update(grads, one.init(scene), scene, context(scene, 0))
    monkeypatch.setattr(network, "by_chunks", lambda function, *rows: by_chunks(function, *rows, chunk=7))
    parts, _ = one.update(grads, one.init(scene), scene, context(scene, 0))
    for name, tensor in whole.items():
        torch.testing.assert_close(getattr(parts, name), tensor, rtol=1e-5, atol=1e-8, msg=name)


def test_the_base_network_has_as_many_weights_as_its_configuration_says() -> None:
    one = build(compose("meta_train", ["trainee=l2s-base"]).trainee)
    assert sum(parameter.numel() for parameter in one.network.parameters()) == 133_306
    assert (one.every, len(one.network.blocks)) == (4, 3)


def test_group_means_are_those_of_the_columns() -> None:
    scene = random_scene(5, degree=2)
    expected = [getattr(scene, g).reshape(5, -1).square().mean(dim=1) for g in GROUPS[:4]]
    expected += [scene.sh[:, 0].square().mean(dim=1), scene.sh[:, 1:].flatten(1).square().mean(dim=1)]
    torch.testing.assert_close(by_group(scene), torch.stack(expected, dim=1))
    assert bool((by_group(random_scene(5, degree=0))[:, 5] == 0).all())


def test_unit_gain_changes_no_bit() -> None:
    scene = random_scene(6, dtype=torch.float32)
    for name, tensor in scaled_by_group(scene, torch.ones(6, 6)).items():
        assert torch.equal(tensor, getattr(scene, name))


def test_clusters_are_nearest_landmarks_and_follow_the_points() -> None:
    means = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = clusters(means, 10)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(clusters(means[order], 10), parts[order])
    assert torch.equal(clusters(3.0 * means + 5.0, 10), parts)
    assert sorted(set(parts.tolist())) == list(range(10))
    centers = torch.stack([means[parts == i].mean(dim=0) for i in range(10)])
    nearest = torch.cdist(means, centers).argmin(dim=1)
    assert float((nearest == parts).double().mean()) > 0.6
    assert clusters(means[:1], 10).tolist() == [0]
    assert clusters(means[:0], 10).shape == (0,)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_gaussians_are_no_problem(count: int) -> None:
    one, scene = optimizer(), random_scene(count)
    update, _ = one.update(random_scene(count, seed=1), one.init(scene), scene, context(scene, 0))
    assert update.is_finite()


def test_only_training_mode_keeps_a_graph() -> None:
    one, scene = optimizer(), random_scene(5)
    update, state = one.update(random_scene(5, seed=1), one.init(scene), scene, context(scene, 0))
    assert not any(tensor.requires_grad for tensor in (*update.tensors(), *state.rows.values()))
    update, state = one.train().update(random_scene(5, seed=1), one.init(scene), scene, context(scene, 0))
    assert all(tensor.requires_grad for tensor in update.tensors())
    assert not any(parameter.requires_grad for parameter in one.rule.parameters())
