"""`l2s-faithful`: its size, what its updates do, and its gradient through a window by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learn2splat.config import build, compose
from learn2splat.networks.chunks import by_chunks
from learn2splat.optim.base import NEIGHBOURS, OptimizerState, StepContext, apply_update, as_rows, from_rows
from learn2splat.optim.learned import knn_transformer
from learn2splat.optim.learned.faithful import (
    LIMITS,
    NUMBERS,
    FaithfulOptimizer,
    normalised,
    scattered_normals,
    to_rows,
    to_scene,
)
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.neighbours import nearest_neighbours
from tests.conftest import random_scene

N = 30


def context(scene: GaussianScene) -> StepContext:
    return StepContext(
        step=0,
        horizon=None,
        batch_views=4,
        train_views=12,
        extent_world=2.0,
        visible=torch.ones(len(scene), dtype=torch.bool),
        loss=0.1,
        neighbours=nearest_neighbours(scene.means, NEIGHBOURS),
    )


def optimizer(trained: bool = True, magnitude: float = 0.2) -> FaithfulOptimizer:
    """A small one in float64; "trained" weights are random."""
    one = FaithfulOptimizer(width=12, attention=6, hidden=16, blocks=2).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        last = one.network.head[-1]
        if trained:  # magnitudes are positive and differ
            last.weight[-1] *= 0.02 * magnitude
            last.bias[-1] = magnitude
        else:
            last.weight.zero_()
            last.bias.zero_()
            last.bias[-1] = knn_transformer.TINY
    return one


def size(scene: GaussianScene) -> Tensor:
    """[N] length of an update."""
    return to_rows(scene).norm(dim=1)


def test_the_published_size_has_the_published_number_of_weights() -> None:
    one = build(compose("meta_train", ["trainee=l2s-faithful"]).trainee)
    parts = {
        "embed": 96_000,
        "blocks": 4 * 592_384,
        "state_scale": 70_313,
        "head": 81_212,
    }
    for name, expected in parts.items():
        assert sum(p.numel() for p in getattr(one.network, name).parameters()) == expected, name
    assert sum(p.numel() for p in one.parameters()) == sum(parts.values()) == 2_617_061


def test_untrained_nothing_moves_and_yet_it_learns() -> None:
    """A zero direction times 1e-8 is exactly zero, and its derivative by the direction is 1e-8 / 1e-8 = 1."""
    one, scene = optimizer(trained=False).train(), random_scene(N)
    grads = random_scene(N, seed=1)
    update, state = one.update(grads, one.init(scene), scene, context(scene))
    assert float(size(update.detach()).max()) == 0
    features = one.network.head[:-1](state.rows["latent"].detach())
    (to_rows(update) * to_rows(grads)).sum().backward()
    last = one.network.head[-1]
    assert last.weight.grad is not None
    expected = -to_rows(grads).sum(dim=0)
    torch.testing.assert_close(last.bias.grad[:-1], expected, rtol=1e-9, atol=1e-12)
    assert bool((last.weight.grad[:-1] != 0).all())
    assert bool((last.weight.grad[-1] == 0).all())
    assert features.shape == (N, 12)


def test_gradients_are_normalised_as_adam_does_by_each_gaussians_own_count() -> None:
    """The last column of a row that skips steps is what `torch.optim.Adam` with rate 1 does over the others."""
    one, scene = optimizer().train(), random_scene(2)
    state, ctx = one.init(scene), context(scene)
    reference = torch.zeros(NUMBERS, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([reference], lr=1.0, eps=1e-15)
    for step in range(6):
        grads = random_scene(2, seed=step + 1)
        skipped = step in (0, 3)
        if skipped:
            grads = grads.map(lambda t: t * torch.tensor([1.0, 0.0]).view(2, *[1] * (t.ndim - 1)))
        _, state = one.update(grads, state, scene, ctx)
        before = reference.detach().clone()
        if not skipped:
            reference.grad = to_rows(grads)[1]
            adam.step()
        m, v = (to_rows(from_rows(moment, state)) for moment in ("m", "v"))
        found = normalised(m, v, state.rows["count"])[1]
        if not skipped:
            torch.testing.assert_close(-found, reference.detach() - before, rtol=1e-9, atol=1e-12)
    assert state.rows["count"].flatten().tolist() == [6, 4]
    assert bool((normalised(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 1)) == 0).all())


@pytest.mark.parametrize("training", [False, True])
def test_permuting_gaussians_permutes_updates_and_states(training: bool) -> None:
    one, scene = optimizer().train(training), random_scene(N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    results = []
    for rows in (torch.arange(N), order):
        now = scene.take(rows)
        state = one.init(now)
        for step in range(3):
            grads = random_scene(N, seed=step + 1)
            grads = grads.map(lambda t: torch.where((torch.arange(N) % 3 == 0).view(N, *[1] * (t.ndim - 1)), 0.0, t))
            update, state = one.update(grads.take(rows), state, now, context(now))
            now = apply_update(now, update.detach())
        results.append((now, state))
    (plain, plain_state), (shuffled, shuffled_state) = results
    torch.testing.assert_close(to_rows(plain.take(order)), to_rows(shuffled), rtol=1e-9, atol=1e-10)
    for name, rows in plain_state.rows.items():
        torch.testing.assert_close(rows[order], shuffled_state.rows[name], rtol=1e-8, atol=1e-9, msg=name)


def test_new_values_lie_within_the_limits() -> None:
    one, scene = optimizer(magnitude=30.0), random_scene(N)
    scene = scene.map(lambda t: 4.0 * t)  # some start outside
    state = one.init(scene)
    for step in range(3):
        update, state = one.update(random_scene(N, seed=step), state, scene, context(scene))
        assert float(size(update).min()) > 0
        scene = apply_update(scene, update)
        for name, (low, high) in LIMITS.items():
            values = getattr(scene, name)
            assert low - 1e-6 <= float(values.min()) <= float(values.max()) <= high + 1e-6, name
    assert float(scene.means.abs().max()) > 2.0


def test_only_in_training_gaussians_without_a_gradient_stay_untouched() -> None:
    one, scene = optimizer(), random_scene(N)
    _, state = one.update(random_scene(N, seed=1), one.init(scene), scene, context(scene))
    unseen = torch.arange(N) % 2 == 0
    grads = random_scene(N, seed=2).map(lambda t: torch.where(unseen.view(N, *[1] * (t.ndim - 1)), 0.0, t))
    for training in (True, False):
        update, after = one.train(training).update(grads, state, scene, context(scene))
        assert bool((size(update.detach())[~unseen] > 0).all())
        assert bool((size(update.detach())[unseen] == 0).all()) == training
        for name, rows in after.rows.items():
            same = (rows == state.rows[name]).reshape(N, -1).all(dim=1)
            assert bool(same[unseen].all()) == training, name
            assert not bool(same[~unseen].any()), name


def window(
    one: FaithfulOptimizer, scenes: list[GaussianScene], grads: list[GaussianScene], credit: list[GaussianScene]
) -> Tensor:
    """First-order credit of a window: scenes and gradients are constants, the latent state goes on with its graph."""
    state: OptimizerState = one.init(scenes[0])
    total = torch.zeros((), dtype=torch.float64)
    for scene, grad, later in zip(scenes, grads, credit, strict=True):
        update, state = one.update(grad, state, scene, context(scene))
        total = total + (to_rows(update) * to_rows(later)).sum()
    return total


def test_the_gradient_through_a_window_equals_finite_differences() -> None:
    one = optimizer().train()
    latent = slice(NUMBERS, NUMBERS + one.width)
    with torch.no_grad():  # the one derivative that is cut by design
        one.network.state_scale[0].weight[:, latent] = 0
    scenes = [random_scene(12, seed=step) for step in range(3)]
    grads = [random_scene(12, seed=10 + step) for step in range(3)]
    credit = [random_scene(12, seed=20 + step) for step in range(3)]
    last_only = [credit[0].map(torch.zeros_like)] * 2 + credit[2:]
    for weights in (credit, last_only):
        one.zero_grad()
        window(one, scenes, grads, weights).backward()
        for name, parameter in one.named_parameters():
            assert parameter.grad is not None, name
            index = int(parameter.grad.abs().argmax())
            flat, found = parameter.data.view(-1), float(parameter.grad.view(-1)[index])
            losses = []
            for shift in (1e-6, -2e-6):
                flat[index] += shift
                with torch.no_grad():
                    losses.append(float(window(one, scenes, grads, weights)))
            flat[index] += 1e-6
            assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-7), name
            assert found != 0, name


def test_only_training_mode_keeps_a_graph_and_only_of_the_latent_state() -> None:
    one, scene = optimizer(), random_scene(5)
    update, state = one.update(random_scene(5, seed=1), one.init(scene), scene, context(scene))
    assert not any(tensor.requires_grad for tensor in (*update.tensors(), *state.rows.values()))
    update, state = one.train().update(random_scene(5, seed=1), one.init(scene), scene, context(scene))
    assert all(tensor.requires_grad for tensor in update.tensors())
    assert [name for name, rows in state.rows.items() if rows.requires_grad] == ["latent"]


def test_chunked_equals_unchunked(monkeypatch: pytest.MonkeyPatch) -> None:
    one, scene = optimizer(), random_scene(N)
    state, grads = one.init(scene), random_scene(N, seed=1)
    whole, whole_state = one.update(grads, state, scene, context(scene))
    sizes: list[int] = []

    def pieces(function, *rows: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        def counted(*piece: Tensor) -> Tensor:
            sizes.append(len(piece[0]))
            return function(*piece)

        return by_chunks(counted, *rows, chunk=7)

    monkeypatch.setattr(knn_transformer, "by_chunks", pieces)
    parts, parts_state = one.update(grads, state, scene, context(scene))
    assert max(sizes) == 7
    assert sum(sizes) % N == 0
    torch.testing.assert_close(to_rows(parts), to_rows(whole), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts_state.rows["latent"], whole_state.rows["latent"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_columns_are_those_of_the_published_order_and_round_trip(degree: int) -> None:
    scene = random_scene(4, degree=degree)
    columns = to_rows(scene)
    assert columns.shape == (4, 59)
    coefficients = (degree + 1) ** 2
    for channel in range(3):
        at = 11 + 16 * channel
        assert torch.equal(columns[:, at : at + coefficients], scene.sh[:, :, channel])
        assert bool((columns[:, at + coefficients : at + 16] == 0).all())
    for name, tensor in to_scene(columns, scene).items():
        assert torch.equal(tensor, getattr(scene, name)), name
    one = optimizer()
    update, _ = one.update(random_scene(4, seed=1, degree=degree), one.init(scene), scene, context(scene))
    assert update.sh.shape == scene.sh.shape


def test_scattered_normals_are_normal_and_depend_on_the_position_alone() -> None:
    means = 0.01 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = scattered_normals(means, 6)
    assert torch.equal(found, scattered_normals(means, 6))
    torch.testing.assert_close(found[[5, 7]], scattered_normals(means[[5, 7]], 6), rtol=1e-6, atol=1e-8)
    ordered = found.flatten().sort().values
    cdf = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    steps = torch.linspace(0, 1, len(ordered), dtype=torch.float64)
    assert float((cdf - steps).abs().max()) < 1.63 / math.sqrt(len(ordered))  # Kolmogorov-Smirnov, 1 %
    correlation = torch.corrcoef(found.T) - torch.eye(6)
    assert float(correlation.abs().max()) < 4 / math.sqrt(4000)
    nearest = found[nearest_neighbours(means, 1)[:, 0].long()]
    assert abs(float((found * nearest).mean())) < 4 / math.sqrt(found.numel())


def test_newborn_gaussians_inherit_latent_state_and_count_but_no_moments() -> None:
    one, scene = optimizer(), random_scene(4)
    _, state = one.update(random_scene(4, seed=1), one.init(scene), scene, context(scene))
    grown = one.reindex(state, Lineage(torch.tensor([0, 3, 3]), torch.tensor([False, False, True])))
    assert torch.equal(grown.rows["latent"][2], state.rows["latent"][3])
    assert int(grown.rows["count"][2]) == 1
    for name in as_rows("m", scene) | as_rows("v", scene):
        assert not grown.rows[name][2].any()
        assert torch.equal(grown.rows[name][1], state.rows[name][3])


def test_a_perturbed_copy_takes_longer_or_shorter_steps_in_the_same_direction() -> None:
    one, scene = optimizer(magnitude=0.05), random_scene(N)
    grads, ctx = random_scene(N, seed=1), context(scene)
    plain, _ = one.update(grads, one.init(scene), scene, ctx)
    factors = []
    for seed in range(5):
        other = one.perturbed(torch.Generator().manual_seed(seed))
        update, _ = other.update(grads, other.init(scene), scene, ctx)
        factors.append(float((update.means / plain.means).mean()))
        torch.testing.assert_close(update.means, factors[-1] * plain.means, rtol=1e-9, atol=1e-12)
    assert max(factors) > 1.2
    assert min(factors) < 0.8
    assert all(math.exp(-1) <= factor <= math.exp(1) for factor in factors)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_gaussians_are_no_problem(count: int) -> None:
    one, scene = optimizer(), random_scene(count)
    update, _ = one.update(random_scene(count, seed=1), one.init(scene), scene, context(scene))
    assert update.is_finite()
