"""3DGS-MCMC: copies look as the one did, the dead move, penalties are derivatives, noise is local."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learn2splat.cameras import Cameras
from learn2splat.densify.base import Densified, DensifyContext
from learn2splat.densify.mcmc import Mcmc, shared_among
from learn2splat.densify.schedule import Refinements
from learn2splat.render.base import RenderSettings
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene, opacities, scales
from learn2splat.scene.rotation import rotation_matrices
from tests.conftest import random_scene

N = 30
ALWAYS = Mcmc(refinements=Refinements(start=0, every=1))
NEVER = Mcmc(refinements=Refinements(start=0, every=30_000))


def context(step: int = 1, cap: int = N, extent: float = 2.0, seed: int = 0) -> DensifyContext:
    return DensifyContext(step, None, extent, cap, torch.Generator().manual_seed(seed))


def with_dead(rows: list[int]) -> GaussianScene:
    scene = random_scene(N)
    logits = scene.logit_opacities.clamp_min(-3)
    logits[rows] = -6.0
    return replace(scene, logit_opacities=logits)


def densify(scene: GaussianScene, ctx: DensifyContext, densifier: Mcmc = ALWAYS) -> Densified:
    change = densifier.densify({}, scene, ctx)
    assert change is not None
    return change


@pytest.mark.parametrize("opacity", [0.02, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("copies", [1, 2, 3, 7, 60])
def test_copies_keep_the_centre_and_the_integral_along_a_line(opacity: float, copies: int) -> None:
    logit = torch.tensor([opacity], dtype=torch.float64).logit()
    logits, log_scales = shared_among(logit, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([copies]))
    each, scale = logits.sigmoid(), log_scales.exp()[0, 0]
    assert 1 - (1 - float(each)) ** copies == pytest.approx(opacity, rel=1e-12)
    x = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    alpha = 1 - (1 - each * torch.exp(-0.5 * (x / scale).square())) ** copies
    assert float(torch.trapezoid(alpha, x)) == pytest.approx(opacity * math.sqrt(2 * math.pi), rel=1e-8)


def test_copies_are_the_papers_double_sum() -> None:
    opacity, n = 0.7, 6
    logits, log_scales = shared_among(
        torch.tensor([opacity], dtype=torch.float64).logit(), torch.zeros(1, 3).double(), torch.tensor([n])
    )
    each = float(logits.sigmoid())
    total = sum(
        math.comb(i - 1, k) * (-1) ** k * each ** (k + 1) / math.sqrt(k + 1) for i in range(1, n + 1) for k in range(i)
    )
    assert float(log_scales.exp()[0, 0]) == pytest.approx(opacity / total, rel=1e-12)


@pytest.mark.parametrize("copies", [2, 5])
def test_a_rendered_gaussian_looks_the_same_when_it_is_copied(copies: int) -> None:
    """By brute force: equal at the centre, equal sums along the row through it, and close everywhere."""
    K = torch.tensor([[[400.0, 0, 80.5], [0, 400.0, 8.5], [0, 0, 1]]], dtype=torch.float64)
    camera = Cameras.of_one_size(K, torch.eye(4, dtype=torch.float64)[None], 161, 17)
    one = replace(
        random_scene(1, degree=0),
        means=torch.tensor([[0.0, 0.0, 4.0]]).double(),
        log_scales=torch.full((1, 3), math.log(0.12)).double(),
        logit_opacities=torch.tensor([0.8]).double().logit(),
    )
    logits, log_scales = shared_among(one.logit_opacities, one.log_scales, torch.tensor([copies]))
    shared = replace(one, logit_opacities=logits, log_scales=log_scales)
    many = shared.map(lambda tensor: tensor.repeat(copies, *[1] * (tensor.ndim - 1)))
    renderer = ReferenceRenderer(RenderSettings(eps2d=0.0))
    before, after = (renderer.render(scene, camera).alpha[0] for scene in (one, many))
    assert float(after[8, 80]) == pytest.approx(float(before[8, 80]), rel=1e-9)
    rows = [float(alpha[8].sum()) for alpha in (before, after)]
    assert rows[1] == pytest.approx(rows[0], rel=0.03)  # what lies below alpha 1/255 is not drawn
    naive = renderer.render(one.map(lambda t: t.repeat(copies, *[1] * (t.ndim - 1))), camera).alpha[0]
    assert float((after - before).abs().max()) < 0.15 * float((naive - before).abs().max()) + 0.03


def test_shares_are_differentiable_to_finite_differences() -> None:
    logit = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    size = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: shared_among(a, b, torch.tensor([3, 2])), (logit, size))


def test_the_dead_move_onto_the_living_and_take_over_their_history() -> None:
    dead = [2, 5, 11, 28]
    scene = with_dead(dead)
    change = densify(scene, context())
    assert change.lineage is not None
    parent = change.lineage.parent
    assert not change.lineage.fresh.any()
    assert not set(parent[dead].tolist()) & set(dead)
    others = [row for row in range(N) if row not in dead]
    assert parent[others].tolist() == others
    copies = torch.bincount(parent, minlength=N)
    for row in range(N):
        source = int(parent[row])
        assert torch.equal(change.scene.means[row], scene.means[source])
        assert torch.equal(change.scene.sh[row], scene.sh[source])
        together = 1 - (1 - float(opacities(change.scene)[row])) ** int(copies[source])
        assert together == pytest.approx(float(opacities(scene)[source]), rel=1e-9)
        if copies[source] == 1:
            assert torch.equal(change.scene.log_scales[row], scene.log_scales[source])
        else:
            assert bool((change.scene.log_scales[row] != scene.log_scales[source]).all())


def test_sources_are_drawn_in_proportion_to_opacity() -> None:
    scene = random_scene(3)
    scene = replace(scene, logit_opacities=torch.tensor([0.2, 0.6, 0.001]).double().logit())
    many = scene.map(lambda tensor: torch.cat([tensor, tensor[2:].expand(4000, *tensor.shape[1:])]))
    _, lineage = ALWAYS.relocate(many, torch.Generator().manual_seed(0))
    drawn = lineage.parent[2:]
    assert set(drawn.tolist()) == {0, 1}
    assert float((drawn == 1).double().mean()) == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4001))


def test_a_twentieth_is_added_up_to_the_cap() -> None:
    scene = with_dead([])
    for cap, expected in ((1000, 31), (30, 30), (10, 30)):
        change = ALWAYS.densify({}, scene, context(cap=cap))
        if expected == N:
            assert change is None  # nothing was dead, and there is no room
            continue
        assert change is not None
        assert change.lineage is not None
        assert len(change.scene) == expected
        assert change.lineage.fresh.tolist() == [False] * N + [True] * (expected - N)


def test_permuting_gaussians_permutes_the_dead_and_what_the_living_become() -> None:
    """Random numbers are drawn in the order of the rows: who is drawn changes, who moves does not."""
    scene, order = with_dead([1, 7, 9]), torch.randperm(N, generator=torch.Generator().manual_seed(3))
    moved = []
    for rows in (torch.arange(N), order):
        lineage = densify(scene.take(rows), context()).lineage
        assert lineage is not None
        moved.append(sorted(rows[lineage.parent != torch.arange(N)].tolist()))
    assert moved[0] == moved[1] == [1, 7, 9]


def test_nobody_living_leaves_the_dead_where_they_are() -> None:
    scene = with_dead(list(range(N)))
    assert ALWAYS.densify({}, replace(scene, logit_opacities=torch.full((N,), -900.0).double()), context()) is None


def test_penalties_are_derivatives_of_what_is_stated() -> None:
    scene, zero = random_scene(N), random_scene(N).map(torch.zeros_like)
    leaves = scene.map(lambda tensor: tensor.clone().requires_grad_(True))
    extent = 3.0
    loss = 0.01 * opacities(leaves).mean() + 0.01 * (scales(leaves) / extent).mean()
    expected = torch.autograd.grad(loss, [leaves.logit_opacities, leaves.log_scales])
    found = ALWAYS.penalised(zero, scene, extent)
    torch.testing.assert_close(found.logit_opacities, expected[0])
    torch.testing.assert_close(found.log_scales, expected[1])
    for name in ("means", "quats", "sh"):
        assert getattr(found, name) is getattr(zero, name)


def test_noise_is_the_gaussians_own_and_for_the_nearly_dead() -> None:
    """Whitened by the squared covariance, the noise of the dead has the stated size; the opaque stay where they are."""
    one = random_scene(1, seed=2)
    extent = 2.0
    many = one.map(lambda tensor: tensor.repeat(5000, *[1] * (tensor.ndim - 1)))
    dead = replace(many, logit_opacities=torch.full((5000,), -20.0).double())
    step = densify(dead, context(extent=extent), NEVER).scene.means - dead.means
    local = step @ rotation_matrices(one.quats)[0] / one.log_scales.exp().square()
    expected = 80 / extent / (1 + math.exp(-0.5))
    torch.testing.assert_close(local.std(dim=0), torch.full((3,), expected).double(), rtol=0.05, atol=0)
    assert float(local.mean(dim=0).abs().max()) < 4 * expected / math.sqrt(5000)
    opaque = replace(many, logit_opacities=torch.full((5000,), 2.0).double())
    change = densify(opaque, context(), NEVER)
    torch.testing.assert_close(change.scene.means, opaque.means, rtol=0, atol=1e-12)
    assert change.lineage is None
    late = densify(dead, context(step=29_999, extent=extent), NEVER).scene.means - dead.means
    torch.testing.assert_close(late, step * 0.01 ** (29_998 / 30_000), rtol=1e-6, atol=0)


def test_the_unit_of_the_world_does_not_matter() -> None:
    scene, unit = with_dead([3]), 50.0
    bigger = replace(scene, means=unit * scene.means, log_scales=scene.log_scales + math.log(unit))
    one = densify(scene, context(), NEVER).scene
    two = densify(bigger, context(extent=2.0 * unit), NEVER).scene
    torch.testing.assert_close(two.means, unit * one.means)


def test_bad_constants_are_refused() -> None:
    with pytest.raises(ValueError, match="min_opacity"):
        Mcmc(min_opacity=0.0)
    with pytest.raises(ValueError, match="growth"):
        Mcmc(growth=0.9)
