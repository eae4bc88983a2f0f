"""The inner loop: resume to the bit, averaging, outcomes, and agreement with a hand-written loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from learn2splat import checkpoint
from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.data.views import RandomViews, probe_views
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import OptimizerState, SceneOptimizer, StepContext
from learn2splat.optim.rates import GroupRates, PositionDecay, PowerDecay
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState
from learn2splat.run_folder import RunFolder
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from tests.conftest import random_scene, ring_cameras

VIEWS = 6


def capture(sizes: list[tuple[int, int]] | None = None) -> SceneData:
    """Pictures of a random scene: something that can be optimised to perfection."""
    truth = random_scene(20, seed=9, degree=0, dtype=torch.float32)
    cameras = ring_cameras(VIEWS, 32, 24, dtype=torch.float32)
    if sizes is not None:
        widths, heights = torch.tensor(sizes).unbind(-1)
        cameras = cameras.resized(widths, heights)
    photos = []
    for view in range(VIEWS):
        image = ReferenceRenderer().render(truth, cameras.take([view])).image[0]
        photos.append((image.clamp(0, 1) * 255).round().byte())
    names = [f"{view}.png" for view in range(VIEWS)]
    return SceneData("test", cameras, photos, names, None, list(range(1, VIEWS)), [0])


def start_scene() -> GaussianScene:
    truth = random_scene(20, seed=9, degree=0, dtype=torch.float32)
    return truth.map(
        lambda tensor: tensor + 0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    )


def rollout(optimizer: SceneOptimizer, data: SceneData | None = None, average: bool = True) -> Rollout:
    data = data or capture()
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    sampler = RandomViews(cameras=data.cameras, views=list(data.train), batch=2, seed=3)
    state = RolloutState.start(start_scene(), optimizer, average)
    return Rollout(loss, list(data.train), optimizer, sampler, state, horizon=12)


def fast_adam() -> Adam:
    return Adam(GroupRates(means=0.5, means_unit="footprint"), PowerDecay(scale=5.0))


def assert_equal(one: GaussianScene, two: GaussianScene) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, getattr(two, name)), name


def test_the_loss_falls() -> None:
    run = rollout(fast_adam())
    losses = [record.loss for record in run.run(40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert run.outcome().kind is OutcomeKind.OK
    assert [record.step for record in rollout(fast_adam()).run(3)] == [1, 2, 3]


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_resumed_is_the_same_to_the_bit(tmp_path: Path, cut: int) -> None:
    straight = rollout(fast_adam())
    list(straight.run(12))
    first = rollout(fast_adam())
    list(first.run(cut))
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(first.state, first.sampler)
    second = rollout(fast_adam())
    second.state = folder.load_checkpoint(second.sampler)
    list(second.run(12))
    assert_equal(straight.state.scene, second.state.scene)
    assert_equal(straight.outcome().scene, second.outcome().scene)
    assert_equal(straight.state.best, second.state.best)
    assert straight.state.running_loss == second.state.running_loss


def test_with_a_head_start_schedules_begin_where_it_ends() -> None:
    rates, (late, early) = GroupRates(means=0.5, means_unit="footprint"), (rollout(fast_adam()) for _ in range(2))
    late.head_start = 60
    early.optimizer = Adam(rates, PowerDecay(scale=5.0 / 4**0.5, warm=20.0, power=0.0))
    late.optimizer = Adam(rates, PowerDecay(scale=5.0, warm=20.0, power=0.5))
    records = [next(run.run(1)) for run in (late, early)]
    assert [record.step for record in records] == [1, 1]
    for name, tensor in late.state.scene.items():
        torch.testing.assert_close(tensor, getattr(early.state.scene, name), rtol=1e-6, atol=1e-6)


def test_average_is_the_weighted_mean_of_the_trajectory() -> None:
    run = rollout(fast_adam())
    average = run.state.scene.means
    for record in run.run(30):
        weight = min(1.0, 1.0 / (0.1 * record.step))
        average = average * (1 - weight) + weight * run.state.scene.means
    torch.testing.assert_close(run.outcome().scene.means, average)
    assert run.outcome().which == "averaged"
    plain = rollout(fast_adam(), average=False)
    list(plain.run(3))
    assert plain.outcome().which == "last"
    assert_equal(plain.outcome().scene, plain.state.scene)


def test_gradient_is_that_of_the_mean_loss_over_views_of_any_size() -> None:
    sizes = [(32, 24), (32, 24), (24, 32), (32, 24), (24, 32), (32, 24)]
    data, scene = capture(sizes), start_scene()
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    together = loss.gradient(scene, [1, 2, 3])
    apart = [loss.gradient(scene, [view]) for view in (1, 2, 3)]
    assert together.loss == pytest.approx(sum(part.loss for part in apart) / 3)
    for name, gradient in together.grads.items():
        mean = sum(getattr(part.grads, name) for part in apart) / 3
        torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-7)


class Exploding(Adam):
    """Takes a step that is not finite, or far too large, at step 3."""

    def __init__(self, factor: float) -> None:
        super().__init__(schedule=PositionDecay(final=1.0))
        self.factor = factor

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        update, state = super().update(grads, state, scene, context)
        if context.step >= 3:
            update = replace(update, sh=update.sh + self.factor)
        return update, state


def test_what_is_not_finite_ends_with_the_best_scene() -> None:
    run = rollout(Exploding(float("nan")))
    assert len(list(run.run(12))) == 3
    outcome = run.outcome()
    assert outcome.kind is OutcomeKind.NONFINITE
    assert outcome.which == "best"
    assert outcome.scene.is_finite()
    assert "step 3" in outcome.message
    assert run.state.scene.is_finite()


def test_divergence_ends_with_the_best_scene() -> None:
    run = rollout(Exploding(50.0))
    records = list(run.run(200))
    assert len(records) < 200
    outcome = run.outcome()
    assert outcome.kind is OutcomeKind.DIVERGED
    before = SceneLoss(capture(), ReferenceRenderer(), PhotometricLoss()).gradient(outcome.scene, [1, 2, 3, 4, 5])
    assert before.loss <= 1.05 * records[0].loss


def test_a_stop_is_an_interruption_and_a_budget_is_not() -> None:
    run = rollout(fast_adam())
    for _ in run.run(12, stop=lambda: run.state.step >= 4):
        pass
    assert run.outcome().kind is OutcomeKind.INTERRUPTED
    assert run.state.step == 4
    limited = rollout(fast_adam())
    list(limited.run(100_000, time_budget=0.2))
    assert limited.outcome().kind is OutcomeKind.OK
    assert limited.state.seconds >= 0.2
    assert limited.state.step < 100_000


class OutOfMemory(Adam):
    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def test_out_of_memory_is_an_outcome_and_other_errors_are_not() -> None:
    run = rollout(OutOfMemory())
    assert list(run.run(3)) == []
    assert run.outcome().kind is OutcomeKind.OUT_OF_MEMORY
    assert "--max-gaussians" in run.outcome().message


def test_extent_of_a_single_camera_is_not_zero() -> None:
    data = capture()
    one = replace(data, train=[2])
    assert rollout(fast_adam(), one).extent_world == 1.0
    assert isinstance(data.cameras, Cameras)


def test_damaged_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    run = rollout(fast_adam())
    list(run.run(2))
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(run.state, run.sampler)
    tensors = folder.checkpoint / checkpoint.TENSORS
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(checkpoint.BadCheckpointError, match="damaged"):
        folder.load_checkpoint(run.sampler)
    tensors.unlink()
    with pytest.raises(checkpoint.BadCheckpointError, match="not a readable checkpoint"):
        folder.load_checkpoint(run.sampler)
    folder.save_checkpoint(run.state, run.sampler)
    with pytest.raises(checkpoint.BadCheckpointError, match="checkpoint of 'run', expected 'other'"):
        checkpoint.load(folder.checkpoint, "other")


def guarded(optimizer: SceneOptimizer) -> Rollout:
    data = capture()
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    sampler = RandomViews(cameras=data.cameras, views=[1, 2, 4, 5], batch=2, seed=3)
    return Rollout(loss, [1, 2, 4, 5], optimizer, sampler, RolloutState.start(start_scene(), optimizer), probe=[3])


class Drifting(Adam):
    """Improves for ten steps, then walks away slowly."""

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        update, state = super().update(grads, state, scene, context)
        assert context.probe_loss is not None
        return (update if context.step < 10 else replace(update, sh=update.sh + 0.15)), state


def test_with_probe_views_the_scene_they_like_best_is_kept() -> None:
    run = guarded(Drifting(GroupRates(means=0.5, means_unit="footprint"), PowerDecay(scale=5.0)))
    losses = [run.scene_loss.value(run.outcome().scene, [3]) for _ in run.run(40)]
    outcome = run.outcome()
    assert outcome.kind is OutcomeKind.OK
    assert outcome.which == "best"
    assert losses == sorted(losses, reverse=True)  # it never gets worse
    assert losses[-1] < 0.9 * losses[0]
    assert run.scene_loss.value(run.state.output, [3]) > 1.03 * losses[-1]  # where the run itself went


def test_probe_views_are_not_optimised_on() -> None:
    data = capture()
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    sampler = RandomViews(data.cameras, [1, 2], 2, seed=0)
    state = RolloutState.start(start_scene(), fast_adam())
    with pytest.raises(ValueError, match="probe views"):
        Rollout(loss, [1, 2], fast_adam(), sampler, state, probe=[2])


def test_the_value_of_views_is_the_loss_of_their_gradient() -> None:
    sizes = [(32, 24), (32, 24), (24, 32), (32, 24), (24, 32), (32, 24)]
    loss, scene = SceneLoss(capture(sizes), ReferenceRenderer(), PhotometricLoss()), start_scene()
    assert loss.value(scene, [1, 2, 3]) == pytest.approx(loss.gradient(scene, [1, 2, 3]).loss)


@pytest.mark.parametrize(("count", "held"), [(3, 0), (5, 0), (6, 1), (11, 1), (12, 2), (16, 2), (17, 0)])
def test_few_views_lose_one_or_two_to_the_probe(count: int, held: int) -> None:
    views = list(range(2, 2 + count))
    train, probe = probe_views(ring_cameras(20, 32, 24), views)
    assert len(probe) == held
    assert sorted(train + probe) == views


def test_the_probe_views_are_those_that_others_surround() -> None:
    """Camera i + 9 of the ring stands close beside camera i."""
    cameras = ring_cameras(28, 32, 24)
    assert probe_views(cameras, [0, 2, 4, 6, 9, 18]) == ([0, 2, 4, 6, 18], [9])
    assert probe_views(cameras, [*range(9), 9, 18, 27])[1] == [9, 18]


def test_a_guarded_run_never_ends_below_its_start() -> None:
    run = guarded(Exploding(0.3))
    start = run.scene_loss.value(run.state.scene, [3])
    list(run.run(2))
    assert run.state.best_loss <= start + 1e-12


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    run = rollout(fast_adam())
    with pytest.raises(OSError, match="No space left"):
        RunFolder(tmp_path / "run").save_checkpoint(run.state, run.sampler)
    assert list((tmp_path / "run").iterdir()) == []
