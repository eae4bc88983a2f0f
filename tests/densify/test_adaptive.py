"""Adaptive density control: who multiplies and dies, what children look like, resets, the cap."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learn2splat.densify.adaptive import CHILDREN, AdaptiveDensityControl, split_samples
from learn2splat.densify.base import Densified, DensifyContext, ScreenEvidence, Statistics
from learn2splat.densify.schedule import Refinements
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.rotation import rotation_matrices
from tests.conftest import random_scene

N = 40
ALWAYS = Refinements(start=0, every=1)
NEVER = Refinements(every=30_000)
PLAIN = AdaptiveDensityControl(refinements=ALWAYS)


def context(step: int = 1, cap: int = 1000, extent: float = 10.0, seed: int = 0) -> DensifyContext:
    return DensifyContext(step, None, extent, cap, torch.Generator().manual_seed(seed))


def statistics(gradient: torch.Tensor) -> Statistics:
    """Seen in three views each."""
    return {"gradient": 3 * gradient, "views": torch.full_like(gradient, 3.0)}


def scene_with(logit: float = 0.0) -> GaussianScene:
    """Half of the Gaussians small, half large in comparison with 0.01 extents of 10."""
    scene = random_scene(N)
    sizes = torch.where(torch.arange(N) % 2 == 0, 0.05, 0.3).double().log()
    return replace(
        scene, log_scales=sizes[:, None] - torch.rand(N, 3).double(), logit_opacities=torch.full((N,), logit).double()
    )


def densify(scene: GaussianScene, gradient: torch.Tensor, ctx: DensifyContext | None = None) -> Densified:
    change = PLAIN.densify(statistics(gradient), scene, ctx or context())
    assert change is not None
    return change


def gradients(rows: list[int]) -> torch.Tensor:
    """Above the threshold in ``rows``, each a little different."""
    values = torch.full((N,), 1e-5, dtype=torch.float64)
    values[rows] = 1e-3 + 1e-5 * torch.arange(len(rows)).double()
    return values


def test_when_nothing_is_pulled_at_or_unseen_nothing_changes() -> None:
    scene = scene_with()
    change = densify(scene, gradients([]))
    assert change.lineage is None
    assert change.scene is scene
    assert float(change.statistics["gradient"].sum()) == 0


def test_small_ones_are_cloned_large_ones_split_faint_ones_pruned() -> None:
    scene = scene_with()
    sizes = scene.log_scales.amax(dim=1).exp()
    faint = torch.zeros(N, dtype=torch.bool)
    faint[[3, 4]] = True  # one of them is pulled at: what dies does not multiply
    scene = replace(scene, logit_opacities=torch.where(faint, -6.0, scene.logit_opacities))
    pulled = [0, 2, 4, 1, 5]
    change = densify(scene, gradients(pulled))
    assert change.lineage is not None
    parent, fresh = change.lineage.parent.tolist(), change.lineage.fresh.tolist()
    cloned = [row for row in (0, 2) if sizes[row] <= 0.1]
    split = [row for row in (0, 2, 1, 5) if sizes[row] > 0.1]
    assert cloned
    assert split
    staying = [row for row in range(N) if row not in (*split, 3, 4)]
    assert parent == staying + sorted(cloned) + sorted(split) + sorted(split)
    assert fresh == [False] * len(staying) + [True] * (len(cloned) + 2 * len(split))
    copies = change.scene.take(torch.arange(len(staying), len(staying) + len(cloned)))
    for name, tensor in copies.items():
        assert torch.equal(tensor, getattr(scene, name)[sorted(cloned)]), name
    assert len(change.statistics["views"]) == len(change.scene) == len(change.lineage)


def test_the_criterion_is_the_mean_over_the_views_that_draw_it() -> None:
    """Rows with the same sum but more views, or drawn in none, do not multiply."""
    scene = scene_with()
    sums, views = torch.zeros(N).double(), torch.ones(N).double()
    sums[:3], views[:3] = 3e-4, torch.tensor([1.0, 2.0, 0.0])
    change = PLAIN.densify({"gradient": sums, "views": views}, scene, context())
    assert change is not None
    assert change.lineage is not None
    assert sorted(set(change.lineage.parent[change.lineage.fresh].tolist())) == [0, 2]


def test_children_lie_in_their_parent_and_are_smaller() -> None:
    """Whitened by the parent's covariance, samples have zero mean and unit covariance."""
    parent = random_scene(1, seed=4)
    parents = parent.map(lambda tensor: tensor.repeat(4000, *[1] * (tensor.ndim - 1)))
    children = split_samples(parents, torch.Generator().manual_seed(0))
    assert len(children) == CHILDREN * 4000
    white = (children.means - parent.means) @ rotation_matrices(parent.quats)[0] / parent.log_scales.exp()
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=4 / math.sqrt(8000))
    torch.testing.assert_close(white.T @ white / 8000, torch.eye(3).double(), rtol=0, atol=0.08)
    torch.testing.assert_close(children.log_scales.exp() * 1.6, parent.log_scales.exp().expand(8000, 3))
    for name in ("quats", "logit_opacities", "sh"):
        assert torch.equal(getattr(children, name)[0], getattr(parent, name)[0])


def test_permuting_gaussians_permutes_who_multiplies_and_dies() -> None:
    """Random numbers are drawn in the order of the rows: where children lie depends on it, whose they are does not."""
    scene = scene_with()
    scene = replace(scene, logit_opacities=torch.where(torch.arange(N) % 7 == 0, -6.0, scene.logit_opacities))
    gradient = gradients(list(range(0, N, 3)))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for cap in (1000, N):
        one = densify(scene, gradient, context(cap=cap)).lineage
        two = densify(scene.take(order), gradient[order], context(cap=cap)).lineage
        assert one is not None
        assert two is not None
        plain = zip(one.parent.tolist(), one.fresh.tolist(), strict=True)
        shuffled = zip(order[two.parent].tolist(), two.fresh.tolist(), strict=True)
        assert sorted(plain) == sorted(shuffled)


@pytest.mark.parametrize("cap", [0, N - 5, N, N + 4, 1000])
def test_the_cap_holds_and_those_pulled_at_most_come_first(cap: int) -> None:
    change = densify(scene_with(), gradients(list(range(0, N, 2))), context(cap=cap))
    count = len(change.scene)
    assert count == max(N, min(cap, N + N // 2))  # a cap kills nobody
    if cap == N + 4:
        assert change.lineage is not None
        assert sorted(set(change.lineage.parent[change.lineage.fresh].tolist())) == [32, 34, 36, 38]


def test_vast_ones_die_after_the_first_reset_unless_they_are_pulled_at() -> None:
    scene = scene_with()
    scene = replace(scene, log_scales=scene.log_scales.index_fill(0, torch.tensor([1, 3]), math.log(1.5)))
    early, late = (densify(scene, gradients([3]), context(step=step)) for step in (2999, 3001))
    assert early.lineage is not None
    assert late.lineage is not None
    assert set(range(N)) - set(early.lineage.parent.tolist()) == set()
    assert set(range(N)) - set(late.lineage.parent.tolist()) == {1}


def test_a_reset_lowers_all_opacities_and_restarts_their_moments() -> None:
    densifier = AdaptiveDensityControl(refinements=NEVER)
    scene = random_scene(N)
    scene = replace(scene, logit_opacities=torch.linspace(-7, 7, N).double())
    kept = statistics(torch.rand(N))
    assert densifier.densify(kept, scene, context(step=2999)) is None
    change = densifier.densify(kept, scene, context(step=3000))
    assert change is not None
    expected = torch.minimum(scene.logit_opacities.sigmoid(), torch.tensor(0.01).double())
    torch.testing.assert_close(change.scene.logit_opacities.sigmoid(), expected)
    for name in ("means", "log_scales", "quats", "sh"):
        assert getattr(change.scene, name) is getattr(scene, name)
    assert change.lineage is not None
    assert change.lineage.restarted == {"logit_opacities"}
    assert replace(change.lineage, restarted=frozenset()).is_identity(N)
    assert change.statistics is kept
    assert not (change.scene.logit_opacities.sigmoid() < densifier.prune_opacity).all()


@pytest.mark.parametrize(
    ("steps", "resets"), [(30_000, [3000, 6000, 9000, 12_000]), (3000, [500, 1000]), (900, []), (60_000, 4)]
)
def test_resets_are_scaled_to_the_run(steps: int, resets: list[int] | int) -> None:
    densifier = AdaptiveDensityControl(refinements=NEVER)
    scene = random_scene(2)
    found = []
    for step in range(1, steps + 1, 1 if steps < 10_000 else 100):
        at = step if steps < 10_000 else step - 1
        ctx = DensifyContext(at, steps, 1.0, 10, torch.Generator())
        if densifier.densify(densifier.init(scene), scene, ctx) is not None:
            found.append(at)
    assert found == resets or len(found) == resets


def test_refinements_are_those_of_the_papers_in_a_standard_run_and_shrink_with_it() -> None:
    standard = [step for step in range(30_001) if Refinements().due(step, 30_000)]
    assert standard == list(range(600, 15_000, 100))
    short = [step for step in range(1501) if Refinements().due(step, 1500)]
    assert short == list(range(80, 750, 10))
    assert [step for step in range(31) if Refinements().due(step, 30)] == [10]


def test_a_scene_never_dies_out() -> None:
    scene = scene_with(logit=-8.0)
    scene = replace(scene, logit_opacities=scene.logit_opacities - torch.arange(N))
    change = densify(scene, gradients([]))
    assert change.lineage is not None
    assert change.lineage.parent.tolist() == [0]


def test_screen_evidence_is_in_units_of_the_paper() -> None:
    """A view's own gradient, per normalised device coordinate: pixels x size / 2, and no matter the batch."""
    means2d_px = torch.tensor([[[3e-3, 4e-3], [1.0, 1.0]], [[0.0, 1e-3], [2e-3, 0.0]]])
    visible = torch.tensor([[True, False], [True, True]])
    evidence = ScreenEvidence.of(means2d_px, visible, (200, 100), batch_views=2)
    first = math.hypot(3e-3 * 100, 4e-3 * 50) + 1e-3 * 50
    torch.testing.assert_close(evidence.gradient_ndc, 2 * torch.tensor([first, 2e-3 * 100]))
    assert evidence.views.tolist() == [2, 1]
    seen = PLAIN.observe(PLAIN.observe(PLAIN.init(random_scene(2)), evidence), evidence)
    torch.testing.assert_close(seen["gradient"].float(), 2 * evidence.gradient_ndc)
    assert seen["views"].tolist() == [4, 2]


def test_bad_constants_are_refused() -> None:
    with pytest.raises(ValueError, match="reset_opacity"):
        AdaptiveDensityControl(prune_opacity=0.02)
    with pytest.raises(ValueError, match="every >= 1"):
        Refinements(every=0)
