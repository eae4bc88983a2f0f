"""Births and deaths in the inner loop: histories follow their rows, resume to the bit, averages, caps, restarts."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat import rollout_state
from learn2splat.config import build, compose
from learn2splat.data.views import RandomViews
from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.densify.base import Densified, DensifyContext, Growth, Statistics
from learn2splat.densify.mcmc import Mcmc
from learn2splat.densify.schedule import Refinements
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.tape import TapedDensifier
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import GradientRequest
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState
from learn2splat.run_folder import RunFolder
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene_loss import SceneLoss
from tests.test_rollout import assert_equal, capture, fast_adam, start_scene

OFTEN, NEVER = Refinements(start=0, every=3), Refinements(every=30_000)
DENSIFIERS = {
    "default": AdaptiveDensityControl(
        grow_gradient=2e-3, grow_scale=0.02, prune_opacity=0.008, reset_every=7, refinements=OFTEN
    ),
    "mcmc": Mcmc(min_opacity=0.1, growth=1.2, refinements=OFTEN),
}


def optimizer(name: str) -> SceneOptimizer:
    if name in ("learned-rule", "l2s-tiny"):
        return build(compose("meta_train", [f"trainee={name}"]).trainee).eval()
    return build(compose("optimize", [f"optimizer={name}"]).optimizer)


def rollout(densify: str, by: SceneOptimizer | None = None, cap: int = 60, sh_every: int = 0) -> Rollout:
    by = by or fast_adam()
    data = capture()
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    sampler = RandomViews(cameras=data.cameras, views=list(data.train), batch=2, seed=3)
    densifier = DENSIFIERS[densify]
    state = RolloutState.start(start_scene(), by, densifier=densifier)
    growth = Growth(densifier, max_gaussians=cap, seed=5, sh_every=sh_every)
    return Rollout(loss, list(data.train), by, sampler, state, growth=growth)


@pytest.mark.parametrize("densify", DENSIFIERS)
@pytest.mark.parametrize("name", ["adam-tuned", "sgd", "torch-nadam", "learned-rule", "l2s-tiny"])
def test_every_optimizer_goes_through_births_and_deaths(densify: str, name: str) -> None:
    run = rollout(densify, optimizer(name))
    counts = {record.gaussians for record in run.run(10)}
    state = run.state
    assert run.outcome().kind is OutcomeKind.OK
    assert len(counts) > 2
    assert state.scene.is_finite()
    assert max(counts) <= 60
    assert state.average is not None
    sizes = {len(state.average), len(state.scene), *(len(rows) for rows in state.optimizer.rows.values())}
    sizes |= {len(rows) for rows in state.statistics.values()}
    assert sizes == {len(state.scene)}


@pytest.mark.parametrize("densify", DENSIFIERS)
@pytest.mark.parametrize("name", ["adam-tuned", "l2s"])
@pytest.mark.parametrize("cut", [2, 3, 4, 6, 7, 8])
def test_killed_around_a_densification_and_resumed_is_the_same_to_the_bit(
    tmp_path: Path, densify: str, name: str, cut: int
) -> None:
    """Refinements come after the steps 3, 6 and 9, a reset after 7."""
    straight = rollout(densify, optimizer(name))
    list(straight.run(11))
    first = rollout(densify, optimizer(name))
    list(first.run(cut))
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(first.state, first.sampler)
    second = rollout(densify, optimizer(name))
    second.state = folder.load_checkpoint(second.sampler)
    list(second.run(11))
    assert_equal(straight.state.scene, second.state.scene)
    assert_equal(straight.outcome().scene, second.outcome().scene)
    for one, two in (
        (straight.state.statistics, second.state.statistics),
        (straight.state.optimizer.rows, second.state.optimizer.rows),
        (straight.state.optimizer.shared, second.state.optimizer.shared),
    ):
        assert one.keys() == two.keys()
        assert all(torch.equal(rows, two[name]) for name, rows in one.items())
    assert straight.state.running_loss == second.state.running_loss


class Recorded(TapedDensifier):
    """A densifier that keeps what came of it."""

    def __init__(self, densifier: AdaptiveDensityControl | Mcmc) -> None:
        super().__init__(densifier, [])
        self.changes: list[Densified] = []

    def densify(self, statistics: Statistics, scene: GaussianScene, context: DensifyContext) -> Densified | None:
        change = self.densifier.densify(statistics, scene, context)
        if change is not None and change.lineage is not None:
            self.changes.append(change)
        return change


@pytest.mark.parametrize("densify", DENSIFIERS)
@pytest.mark.parametrize("name", ["adam-tuned", "learned-rule", "l2s-tiny"])
def test_survivors_keep_their_history_to_the_bit_and_the_newborn_have_none(densify: str, name: str) -> None:
    by = optimizer(name)
    plain, run = rollout(densify, by), rollout(densify, by)
    recorded = Recorded(DENSIFIERS[densify])
    run.growth = replace(run.growth, densifier=recorded)
    calm = copy.copy(DENSIFIERS[densify])
    calm.refinements = NEVER
    plain.growth = replace(plain.growth, densifier=calm)
    list(plain.run(3))
    list(run.run(3))
    lineage = recorded.changes[0].lineage
    assert lineage is not None
    assert lineage.fresh.any()
    for key, rows in run.state.optimizer.rows.items():
        before = plain.state.optimizer.rows[key]
        assert torch.equal(rows[~lineage.fresh], before[lineage.parent[~lineage.fresh]]), key
        if key in ("gain", "latent", "agreement", "seen", "visibility"):
            assert torch.equal(rows, before[lineage.parent]), key
        else:
            assert not rows[lineage.fresh].any(), key


def test_the_average_starts_anew_where_densification_changed_something() -> None:
    run = rollout("mcmc")
    list(run.run(2))
    state = run.state
    assert state.average is not None
    lineage = Lineage(torch.tensor([3, 0, 0, 7]), torch.tensor([False, False, True, False]))
    edited = state.scene.take(lineage.parent)
    edited = replace(edited, log_scales=edited.log_scales - torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None])
    after = state.densified(Densified(edited, lineage, {}), run.optimizer)
    assert after.average is not None
    for name, tensor in after.average.items():
        carried = getattr(state.average, name)[lineage.parent]
        expected = [carried[0], carried[1], getattr(edited, name)[2], carried[3]]
        if name == "log_scales":
            expected[1] = edited.log_scales[1]
        assert torch.equal(tensor, torch.stack(expected)), name
    assert math.isfinite(after.running_loss)


def test_a_reset_begins_a_new_descent_and_leaves_the_average() -> None:
    """All opacities fall, their moments are zero, the output stays, and the higher loss is no divergence."""
    run = rollout("default")
    run.growth = replace(run.growth, densifier=AdaptiveDensityControl(reset_every=7, refinements=NEVER))
    list(run.run(6))
    before = run.state
    run.step()
    state = run.state
    assert state.scene.logit_opacities.sigmoid().max() <= 0.01 + 1e-6
    rows = state.optimizer.rows
    assert not any(rows[f"{name}.logit_opacities"].any() for name in ("m", "v", "age"))
    assert all(rows[f"{name}.means"].any() for name in ("m", "v", "age"))
    assert before.average is not None
    assert state.average is not None
    assert float((state.average.logit_opacities - before.average.logit_opacities).abs().max()) < 1.0
    assert math.isinf(state.running_loss)
    records = list(run.run(12))
    assert len(records) == 5
    assert run.outcome().kind is OutcomeKind.OK
    assert run.state.first_loss == records[0].loss > before.running_loss


def test_after_a_reset_the_average_waits_for_the_loss_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run = rollout("default")
    run.growth = replace(run.growth, densifier=AdaptiveDensityControl(reset_every=7, refinements=NEVER))
    list(run.run(7))
    reset = run.state
    assert math.isfinite(reset.awaited_loss)
    assert reset.average_from == 7

    def advanced(state: RolloutState, loss: float) -> RolloutState:
        moved = state.scene.map(lambda tensor: tensor + 1)
        return state.advanced(moved, state.optimizer, loss, by_loss=True)

    high = advanced(advanced(reset, 2 * reset.awaited_loss), 2 * reset.awaited_loss)
    assert high.average is reset.average
    assert high.output is reset.best
    assert high.awaited_loss == reset.awaited_loss
    late = replace(high, running_loss=math.inf)  # so that the next loss is the running loss
    recovered = advanced(late, 1.04 * reset.awaited_loss)
    assert (recovered.average_from, recovered.awaited_loss) == (late.step, math.inf)
    assert recovered.average is not None
    assert torch.equal(recovered.average.means, recovered.scene.means)
    assert recovered.output is recovered.average
    going_on = advanced(replace(recovered, step=recovered.step + 29), 0.0)  # the 31st of this average: weight 10 / 31
    assert going_on.average is not None
    expected = recovered.average.means.lerp(going_on.scene.means, 10 / 31)
    torch.testing.assert_close(going_on.average.means, expected)
    monkeypatch.setattr(rollout_state, "LONGEST_RECOVERY", 2)
    given_up = advanced(high, 2 * reset.awaited_loss)
    assert given_up.average is not None
    assert torch.equal(given_up.average.means, given_up.scene.means)


def test_the_degree_of_the_harmonics_is_raised_step_by_step() -> None:
    run = rollout("mcmc", sh_every=2)
    run.growth = replace(run.growth, densifier=Mcmc(refinements=NEVER))
    run.state = RolloutState.start(start_scene().with_sh_degree(2), run.optimizer)
    moving = []
    for _ in range(6):
        before = run.state.scene.sh
        run.step()
        moved = (run.state.scene.sh != before).any(dim=0).any(dim=-1)
        moving.append(int(moved.sum()))
    assert moving == [1, 1, 4, 4, 9, 9]


def test_evidence_of_views_of_several_sizes_is_that_of_each_alone() -> None:
    sizes = [(32, 24), (32, 24), (24, 32), (32, 24), (24, 32), (32, 24)]
    loss, scene = SceneLoss(capture(sizes), ReferenceRenderer(), PhotometricLoss()), start_scene()
    request = GradientRequest(means2d_px=True)
    together = loss.gradient(scene, [1, 2, 3], request).screen
    alone = [loss.gradient(scene, [view], request).screen for view in (1, 2, 3)]
    assert together is not None
    total = sum(part.gradient_ndc for part in alone if part is not None)
    torch.testing.assert_close(together.gradient_ndc, total, rtol=1e-4, atol=1e-8)
    assert float(together.gradient_ndc.max()) > 0
    assert torch.equal(together.views, sum(part.views for part in alone if part is not None))


def test_a_step_of_the_same_number_draws_the_same_numbers() -> None:
    growth = Growth(DENSIFIERS["mcmc"], seed=3)

    def draw(step: int, seed: int = 3) -> torch.Tensor:
        return torch.rand(4, generator=replace(growth, seed=seed).context(step, 1.0).generator)

    assert torch.equal(draw(8), draw(8))
    assert not torch.equal(draw(8), draw(9))
    assert not torch.equal(draw(8), draw(8, seed=4))
