"""Meta-training: credit against finite differences, resume to the bit, lives through the buffer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat.cameras import Cameras
from learn2splat.config import build, compose
from learn2splat.data.base import PointCloud
from learn2splat.data.resize import shrink
from learn2splat.meta.estimator import TaskSource, TrainableOptimizer
from learn2splat.meta.learner import Windows, death_cost, is_dead, roll_out, run_window
from learn2splat.meta.life import Life, begin, from_entry, to_entry
from learn2splat.meta.objective import AveragedTrajectory, Greedy
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.tape import Taped
from learn2splat.meta.tasks import TaskRanges, crowded, draw_task, turned, without_sparsest
from learn2splat.meta.train import MetaTrainer
from learn2splat.meta.windows import LifeSettings, WindowEstimator
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.faithful import FaithfulOptimizer
from learn2splat.optim.learned.moments import GROUPS
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from tests.test_rollout import capture

RANGES = TaskRanges(gaussians=(20, 30), long_side=(24, 32), sh_degrees=(1,), batch_views=(2,), share_random_init=1.0)
SETTINGS = TrainSettings(meta_steps=6, samples=1, validate_every=3, checkpoint_seconds=1e9)
LIVES = LifeSettings(longest_life=120, longest_rollout=3, windows=Windows(((10, 2),), 3))


def rule(scale: float = 5.0) -> LearnedRule:
    return LearnedRule(GroupRates(means=0.05, means_unit="footprint"), PowerDecay(scale), knots=(0, 10, 100))


def life(seed: int = 0, scale: float = 5.0, dtype: torch.dtype = torch.float32) -> Life:
    task = draw_task(capture(), RANGES, torch.Generator().manual_seed(seed))
    task = replace(task, initial=task.initial.to(dtype=dtype))
    return begin(task, rule(scale), ReferenceRenderer(), ends_at=100)


def score(optimizer: SceneOptimizer) -> float:
    assert isinstance(optimizer, LearnedRule)
    return -float(optimizer.log_step.detach().square().sum())


def assert_equal(one: GaussianScene, two: GaussianScene) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, getattr(two, name)), name


def test_tasks_are_reproducible_and_never_train_on_what_judges() -> None:
    for seed in range(30):
        task = draw_task(capture(), TaskRanges(), torch.Generator().manual_seed(seed))
        again = draw_task(capture(), TaskRanges(), torch.Generator().manual_seed(seed))
        assert_equal(task.initial, again.initial)
        assert not set(task.data.train) & set(task.data.test)
        assert len(task.data.test) >= 1
        assert 1 <= task.batch_views <= len(task.data.train)


def test_shrinking_is_area_filtering() -> None:
    small = shrink(capture(), 16)
    photo = capture().photos[0].float().reshape(12, 2, 16, 2, 3).mean(dim=(1, 3))
    assert float((small.photos[0].float() - photo).abs().max()) <= 0.51
    torch.testing.assert_close(small.cameras.K[:, 0, 0], capture().cameras.K[:, 0, 0] / 2)


def test_turned_cameras_keep_their_centres_and_see_things_a_little_elsewhere() -> None:
    cameras = capture().cameras
    other = turned(cameras, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(other.centers_world, cameras.centers_world, rtol=1e-4, atol=1e-5)
    rotation = other.cam_from_world[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), rtol=0, atol=1e-5)

    def pixels(views: Cameras) -> torch.Tensor:
        origin = views.K @ views.cam_from_world[:, :3, 3:]
        return origin[:, :2, 0] / origin[:, 2:, 0]

    moved = (pixels(other) - pixels(cameras)).norm(dim=-1)
    assert 0.1 < float(moved.mean()) < 2.0


def test_a_life_goes_on_to_the_same_bits_through_an_entry() -> None:
    one = life()
    assert roll_out(one, 5)
    two = from_entry(to_entry(one), rule(), ReferenceRenderer())
    assert two.held == one.held
    assert roll_out(one, 4)
    assert roll_out(two, 4)
    assert_equal(one.rollout.state.scene, two.rollout.state.scene)
    assert_equal(one.rollout.state.output, two.rollout.state.output)


@pytest.mark.parametrize("group", ["means", "sh0", "logit_opacities"])
def test_one_step_credit_is_the_derivative_of_the_held_out_loss(group: str) -> None:
    """For a single step from the start, the averaged scene is the scene itself and the first-order credit is exact."""
    tiny = 1e-3  # small steps: the loss is then close to linear
    start = life(seed=3, scale=tiny, dtype=torch.float64)
    optimizer = start.rollout.optimizer
    assert isinstance(optimizer, LearnedRule)
    optimizer.train()
    objective = AveragedTrajectory(held_views=100, train_views=0)
    row = GROUPS.index(group)
    state = start.rollout.state
    result = run_window(start, 1, 0, objective, 0.0, seed=0)
    result.loss.backward()
    assert optimizer.log_step.grad is not None
    # undo the normalisation: the gradient is d<delta, G>/d(log_step) / size
    held = start.held
    grads = start.rollout.scene_loss.gradient(start.rollout.state.output, held).grads
    delta = start.rollout.state.scene.map(torch.sub, state.scene)
    size = sum(float((d.abs() * g.abs()).sum()) for d, g in zip(delta.tensors(), grads.tensors(), strict=True))
    predicted = float(optimizer.log_step.grad[row, :, 0].sum()) * size
    losses = []
    for shift in (0.3, -0.3):
        again = life(seed=3, scale=tiny, dtype=torch.float64)
        other = again.rollout.optimizer
        assert isinstance(other, LearnedRule)
        with torch.no_grad():
            other.log_step[row, :, 0] += shift
        assert roll_out(again, 1)
        losses.append(again.rollout.scene_loss.gradient(again.rollout.state.output, held).loss)
    measured = (losses[0] - losses[1]) / 0.6
    assert predicted == pytest.approx(measured, rel=0.03)


def assert_reached(rule: LearnedRule) -> None:
    """Every constant at the first knot over steps has a gradient, and only those that are in use."""
    for parameter in rule.parameters():
        assert parameter.grad is not None
        first = parameter.grad[..., 0]
        if parameter is rule.log_step:  # of the knots over the number of views only two are in use
            first = first.abs().sum(dim=1)
        in_use = rule.has_direction if parameter is rule.weight else torch.ones_like(first)
        assert torch.equal(first != 0, in_use != 0)


@pytest.mark.parametrize("objective", [AveragedTrajectory(), Greedy(), Greedy(uphill=1.0)])
def test_every_objective_reaches_every_weight(objective: AveragedTrajectory | Greedy) -> None:
    one = life()
    optimizer = one.rollout.optimizer
    assert isinstance(optimizer, LearnedRule)
    optimizer.train()
    result = run_window(one, 4, 0, objective, 0.0, seed=1)
    assert not result.died
    assert one.step == 4
    result.loss.backward()
    assert_reached(optimizer)
    assert not any(tensor.requires_grad for tensor in one.rollout.state.optimizer.rows.values())


def test_delayed_judgement_is_the_objective_after_the_rollout() -> None:
    results = []
    for delayed in (0.0, 1.0, 0.25):
        one = life()
        assert isinstance(one.rollout.optimizer, LearnedRule)
        one.rollout.optimizer.train()
        results.append(float(run_window(one, 3, 5, AveragedTrajectory(), delayed, seed=1).loss.detach()))
        assert one.step == 8
    now, later, mixed = results
    assert now != later
    assert mixed == pytest.approx(0.75 * now + 0.25 * later, rel=1e-5)


def test_a_death_in_the_rollout_costs() -> None:
    one = life()
    optimizer = one.rollout.optimizer
    assert isinstance(optimizer, LearnedRule)
    optimizer.train()
    one.rollout.state = replace(one.rollout.state, first_loss=1e-9, running_loss=1e-9)  # any loss is a divergence
    result = run_window(one, 0, 2, AveragedTrajectory(), 0.5, seed=1)
    assert result.died
    lived = life()
    lived.rollout.optimizer.train()  # type: ignore[attr-defined]
    assert not run_window(lived, 1, 2, AveragedTrajectory(), 0.5, seed=1).died


def test_crowded_points_keep_the_given_ones_and_stay_beside_them() -> None:
    given = PointCloud(torch.rand(40, 3), torch.rand(40, 3))
    more = crowded(given, 100, torch.Generator().manual_seed(0))
    assert len(more) == 100
    assert torch.equal(more.positions_world[:40], given.positions_world)
    distance = torch.cdist(more.positions_world, given.positions_world).amin(dim=1)
    assert float(distance.max()) < 1.0
    assert float(distance[40:].min()) > 0


def test_an_optimizer_that_starts_from_rest_is_told_where_to_go() -> None:
    """Untrained, `l2s-faithful` moves nothing: credit is then relative to moves of `AT_REST`, and finite."""
    task = draw_task(capture(), RANGES, torch.Generator().manual_seed(0))
    small = replace(task.initial, log_scales=task.initial.log_scales.clamp(max=1.0))  # within its limits
    task = replace(task, initial=small)
    for objective in (AveragedTrajectory(), Greedy(uphill=1.0)):
        optimizer = FaithfulOptimizer(width=8, attention=4, hidden=8, blocks=1).train()
        one = begin(task, optimizer, ReferenceRenderer(), ends_at=100)
        result = run_window(one, 3, 0, objective, 0.0, seed=1)
        assert_equal(one.rollout.state.scene, task.initial)
        assert float(result.loss.detach()) == 0
        result.loss.backward()
        grad = optimizer.network.head[-1].weight.grad
        assert isinstance(grad, torch.Tensor)
        assert bool(torch.isfinite(grad).all())
        assert float(grad[:-1].abs().max()) > 0


def test_the_published_network_trains(tmp_path: Path) -> None:
    """Two meta-steps: the first teaches directions alone, the second lengths too."""
    small = FaithfulOptimizer(width=8, attention=4, hidden=8, blocks=1)
    settings = replace(SETTINGS, meta_steps=2, warm_up=1)
    estimator = WindowEstimator(TaskSource([capture()], RANGES), ReferenceRenderer(), Greedy(uphill=1.0), LIVES)
    one = MetaTrainer(small, estimator, settings, tmp_path, lambda o: 0.0)
    last = small.network.head[-1].weight
    start = last.detach().clone()
    one.run(stop=lambda: one.progress.meta_step == 1)
    assert bool((last[:-1] != start[:-1]).any())
    assert bool((last[-1] == start[-1]).all())
    one.run()
    assert bool((last[-1] != start[-1]).any())
    assert one.progress.column("deaths")[1] == [0, 0]


def test_death_costs_and_smaller_steps_cost_less() -> None:
    one = life()
    optimizer = one.rollout.optimizer
    assert isinstance(optimizer, LearnedRule)
    optimizer.train()
    with torch.no_grad():
        optimizer.log_step.fill_(2.0)
    taped = Taped(optimizer)
    one.rollout.optimizer = taped
    with torch.enable_grad():
        one.rollout.step()
    cost = death_cost(taped.tape)
    assert float(cost.detach()) == pytest.approx(1.0)
    cost.backward()
    assert optimizer.log_step.grad is not None
    assert bool((optimizer.log_step.grad[:, :, 0].sum(dim=1) > 0).all())
    state = one.rollout.state
    assert not is_dead(one)
    one.rollout.state = replace(
        state, scene=replace(state.scene, logit_opacities=torch.full_like(state.scene.logit_opacities, -9.0))
    )
    assert is_dead(one)


def trainer(folder: Path, settings: TrainSettings = SETTINGS) -> MetaTrainer:
    tasks, renderer = TaskSource([capture()], RANGES), ReferenceRenderer()
    return MetaTrainer(rule(), WindowEstimator(tasks, renderer, AveragedTrajectory(), LIVES), settings, folder, score)


def test_resumed_training_is_the_same_to_the_bit(tmp_path: Path) -> None:
    straight = trainer(tmp_path / "straight")
    best = straight.run()
    first = trainer(tmp_path / "cut")
    steps = iter(range(3))
    first.run(stop=lambda: next(steps, None) is None)
    assert first.progress.meta_step == 3
    first._meta_step()  # work that a kill loses
    second = trainer(tmp_path / "cut")
    assert second.progress.meta_step == 3
    resumed = second.run()
    for name, tensor in straight.optimizer.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, second.optimizer.state_dict()[name]), name  # type: ignore[attr-defined]
    assert isinstance(best, LearnedRule)
    assert isinstance(resumed, LearnedRule)
    assert torch.equal(best.log_step, resumed.log_step)
    assert straight.estimator.entries() == second.estimator.entries()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [rule, FaithfulOptimizer])
def test_training_runs_and_resumes_on_a_gpu(tmp_path: Path, make: Callable[[], TrainableOptimizer]) -> None:
    def start() -> MetaTrainer:
        tasks = TaskSource([capture()], RANGES)
        estimator = WindowEstimator(tasks, ReferenceRenderer(), AveragedTrajectory(), LIVES, "cuda")
        return MetaTrainer(make(), estimator, SETTINGS, tmp_path, lambda o: 0.0, "cuda")

    steps = iter(range(3))
    start().run(stop=lambda: next(steps, None) is None)
    two = start()
    best = two.run()
    assert two.progress.meta_step == SETTINGS.meta_steps
    assert isinstance(best, torch.nn.Module)
    assert all(parameter.is_cuda and parameter.isfinite().all() for parameter in best.parameters())


@pytest.mark.parametrize("longest", [24, 400])
def test_lives_end_between_the_shortest_and_the_longest(longest: int, tmp_path: Path) -> None:
    """The longest grows from 100, or stays what it is when it is less; equal ends fix the horizon."""
    settings = LifeSettings(shortest_life=24, longest_life=longest, perturbed=0.0, growth=0.5)
    one = WindowEstimator(TaskSource([capture()], RANGES), ReferenceRenderer(), Greedy(), settings)
    generator = torch.Generator().manual_seed(0)
    for progress, most in ((0.0, min(longest, 100)), (0.25, min(longest, 200)), (0.8, longest)):
        ends = [one._new_life(rule(), progress, generator).ends_at for _ in range(20)]
        assert 24 <= min(ends) <= max(ends) <= most
        assert max(ends) > 0.5 * most


def composed_trainer(folder: Path, *overrides: str) -> MetaTrainer:
    """What `l2s meta-train` trains, made small."""
    config = compose("meta_train", overrides)
    settings = replace(build(config.train), meta_steps=2, samples=2, validate_every=2, checkpoint_seconds=1e9)
    tasks = TaskSource([capture()], RANGES)
    estimator = WindowEstimator(tasks, ReferenceRenderer(), Greedy(), build(config.estimator.settings))
    return MetaTrainer(build(config.trainee), estimator, settings, folder, lambda _: 0.0)


def test_the_smallest_learned_optimizer_is_trained(tmp_path: Path) -> None:
    one = composed_trainer(tmp_path, "trainee=learned-schedule")
    one.run()
    weights = one.optimizer.state_dict()  # type: ignore[attr-defined]
    assert list(weights) == ["log_step"]
    assert bool((weights["log_step"][:, 0] != 0).all())


def test_lives_of_the_fixed_horizon_begin_at_the_start_and_fill_one_window(tmp_path: Path) -> None:
    """No buffer, no rollout, no perturbed start: a meta-step sees steps 0..23 and nothing else."""
    one = composed_trainer(tmp_path, "experiment=g3r")
    before = copy.deepcopy(one.optimizer.state_dict())  # type: ignore[attr-defined]
    lives: list[Life] = []
    windows = one.estimator
    assert isinstance(windows, WindowEstimator)
    begin_one = windows._new_life

    def remembered(optimizer: TrainableOptimizer, progress: float, generator: torch.Generator) -> Life:
        lives.append(begin_one(optimizer, progress, generator))
        assert lives[-1].step == 0
        return lives[-1]

    windows._new_life = remembered  # type: ignore[method-assign]
    one.run()
    assert len(lives) == 4
    assert all(windows.settings.windows.length(0) == each.ends_at == 24 for each in lives)
    assert all(each.step == 24 for each in lives)
    assert windows.entries() == []
    assert any(not torch.equal(t, before[n]) for n, t in one.optimizer.state_dict().items())  # type: ignore[attr-defined]


def test_training_moves_the_weights_and_keeps_the_best(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    before = copy.deepcopy(one.optimizer.state_dict())  # type: ignore[attr-defined]
    one.run()
    assert any(not torch.equal(t, before[n]) for n, t in one.optimizer.state_dict().items())  # type: ignore[attr-defined]
    steps, scores = one.progress.column("score")
    assert steps == [0, 3, 6]
    assert one.progress.best_score == max(scores)


def test_points_that_are_far_from_others_go_first() -> None:
    generator = torch.Generator().manual_seed(0)
    close, far = torch.rand(40, 3, generator=generator), 100 * torch.rand(10, 3, generator=generator)
    positions = torch.cat([far[:5], close, far[5:]])
    colors = torch.arange(50).float()[:, None].expand(50, 3)
    kept = without_sparsest(PointCloud(positions, colors), 0.2)
    assert torch.equal(kept.positions_world, close)
    assert torch.equal(kept.colors, colors[5:45])
