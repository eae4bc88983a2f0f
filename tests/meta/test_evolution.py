"""Evolution strategies: exact for what is linear, antithetic, and through the trainer to the same bits after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.evolution import DEAD_PSNR, Evolution, shifted
from learn2splat.meta.tasks import Task, draw_task
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.moments import DIRECTIONS, GROUPS
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.learned.traits import TRAITS
from learn2splat.render.reference import ReferenceRenderer
from tests.meta.test_training import RANGES, SETTINGS, rule, score
from tests.test_rollout import capture


class Linear(Evolution):
    """Scores are linear in the weights."""

    slopes = 0.01 * torch.linspace(-1, 1, len(GROUPS))[:, None, None]  # small: nothing is cut

    def score(self, optimizer: SceneOptimizer, task: Task, steps: int) -> tuple[float, bool]:
        assert isinstance(optimizer, LearnedRule)
        return float((optimizer.log_step.detach() * self.slopes).sum()), False


def source() -> TaskSource:
    return TaskSource([capture()], RANGES)


@pytest.mark.parametrize(("train_views", "knots"), [(1, 1), (3, 1), (5, 2), (8, 1), (10, 2), (200, 1)])
def test_each_direction_moves_the_constants_of_one_group(train_views: int, knots: int) -> None:
    one = rule()
    directions = one.coarse(train_views)
    lean = 2  # directions that shN is without
    assert len(directions) == len(GROUPS) * (1 + 3 * knots + len(DIRECTIONS) + len(TRAITS)) + len(TRAITS) - lean
    for index, direction in enumerate(directions):
        amounts = [2.0 * (index == other) for other in range(len(directions))]
        moved = shifted(one, directions, amounts)
        assert isinstance(moved, LearnedRule)
        ((name, unit),) = direction.items()
        for parameter in ("log_step", "weight", "feedback", "power"):
            difference = getattr(moved, parameter) - getattr(one, parameter)
            torch.testing.assert_close(difference, 2 * unit if parameter == name else 0 * difference)
            assert int((difference.flatten(1).abs().sum(dim=1) > 0).sum()) <= 1
    assert not bool(one.log_step.any())


def test_the_estimate_of_a_linear_score_tends_to_its_slope_along_the_directions() -> None:
    one = rule()
    tasks = source()
    task = tasks.draw(torch.Generator().manual_seed(0))
    tasks.draw = lambda generator: task  # type: ignore[method-assign]
    found = Linear(tasks, ReferenceRenderer(), sigma=1.0).accumulate(one, 2000, 0.0, torch.Generator().manual_seed(1))
    assert found["deaths"] == 0
    expected = torch.zeros_like(one.log_step)
    for direction in one.coarse(len(task.data.train)):
        for name, unit in direction.items():
            if name == "log_step":
                expected -= unit * float((unit * Linear.slopes).sum())
    assert one.log_step.grad is not None
    assert float((one.log_step.grad - expected).norm() / expected.norm()) < 0.3
    assert one.weight.grad is not None


def test_antithetic_rollouts_of_equal_weights_score_alike_and_zero_the_estimate() -> None:
    one = rule()
    evolution = Evolution(source(), ReferenceRenderer(), shortest=5, longest=6, sigma=0.0)
    evolution.accumulate(one, 2, 0.0, torch.Generator().manual_seed(0))
    assert one.log_step.grad is not None
    assert not bool(one.log_step.grad.any())


def test_a_dead_scene_scores_low_from_its_death_on() -> None:
    task = draw_task(capture(), RANGES, torch.Generator().manual_seed(0))
    gone = replace(
        task, initial=replace(task.initial, logit_opacities=torch.full_like(task.initial.logit_opacities, -9))
    )
    evolution = Evolution(source(), ReferenceRenderer(), marks=(2, 5))
    value, died = evolution.score(rule(), gone, 20)
    assert died
    alive, lived = evolution.score(rule(), task, 20)
    assert not lived
    assert DEAD_PSNR < value < alive


@pytest.mark.parametrize("cut", [1, 3])
def test_resumed_evolution_is_the_same_to_the_bit(tmp_path: Path, cut: int) -> None:
    def trainer(folder: Path) -> MetaTrainer:
        estimator = Evolution(source(), ReferenceRenderer(), shortest=3, longest=5)
        return MetaTrainer(rule(), estimator, replace(SETTINGS, meta_steps=4), folder, score)

    straight = trainer(tmp_path / "straight")
    straight.run()
    steps = iter(range(cut))
    trainer(tmp_path / "cut").run(stop=lambda: next(steps, None) is None)
    second = trainer(tmp_path / "cut")
    second.run()
    assert isinstance(straight.optimizer, LearnedRule)
    assert isinstance(second.optimizer, LearnedRule)
    assert torch.equal(straight.optimizer.log_step, second.optimizer.log_step)
    assert torch.equal(straight.optimizer.weight, second.optimizer.weight)
    assert bool(straight.optimizer.log_step.any())
