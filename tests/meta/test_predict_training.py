"""Training of initialisers and recurrent updaters: tasks, exact gradients, resume to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat.meta.contexts import ContextRanges, PredictedTasks
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.feedforward import TargetEstimator
from learn2splat.meta.objective import Discounted
from learn2splat.meta.recurrent import ShortLives
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.render.reference import ReferenceRenderer
from tests.predict.test_compact import network
from tests.test_rollout import capture

RANGES = ContextRanges(views=(2, 3), targets=2, long_side=(16, 24))
SETTINGS = TrainSettings(meta_steps=4, samples=1, validate_every=2, checkpoint_seconds=1e9, lr=1e-3, warm_up=1)


def feedforward(folder: Path) -> MetaTrainer:
    torch.manual_seed(0)
    net = CompactInitialiser(width=8, planes=6, groups=2, neighbours=3, blocks=1)
    estimator = TargetEstimator(TaskSource([capture()], RANGES), ReferenceRenderer())
    return MetaTrainer(net, estimator, SETTINGS, folder, lambda _: 0.0)


def recurrent(folder: Path) -> MetaTrainer:
    torch.manual_seed(0)
    initialiser = CompactInitialiser(width=8, planes=6, groups=2, neighbours=3, blocks=1)
    tasks = TaskSource([capture()], PredictedTasks(RANGES, initialiser))
    estimator = ShortLives(tasks, ReferenceRenderer(), Discounted(held_views=2), longest=2)
    return MetaTrainer(RecurrentUpdater(width=8, blocks=1), estimator, SETTINGS, folder, lambda _: 0.0)


def test_targets_are_never_shown_and_tasks_are_reproducible() -> None:
    for seed in range(20):
        one, two = (RANGES.draw(capture(), torch.Generator().manual_seed(seed)) for _ in range(2))
        assert (one.train, one.test) == (two.train, two.test)
        assert not set(one.train) & set(one.test)
        assert 2 <= len(one.train) <= 3
        assert 1 <= len(one.test) <= 2
        assert max(one.photos[0].shape) <= 24


def test_more_context_than_there_are_photos_is_refused() -> None:
    with pytest.raises(ValueError, match="too few for 99 context views"):
        replace(RANGES, views=(99, 99)).draw(capture(), torch.Generator())


def test_the_gradient_of_the_initialiser_is_that_of_the_held_out_loss() -> None:
    net = network().train()
    estimator = TargetEstimator(TaskSource([capture()], RANGES), ReferenceRenderer())

    def loss() -> float:
        return estimator.accumulate(net, 1, 0.0, torch.Generator().manual_seed(3))["loss"]

    loss()
    generator = torch.Generator().manual_seed(0)
    directions = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in net.named_parameters()}
    slope = sum(float((p.grad * directions[n]).sum()) for n, p in net.named_parameters() if p.grad is not None)
    assert all(parameter.grad is not None for parameter in net.parameters())
    losses = []
    for shift in (1e-7, -2e-7):
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter += shift * directions[name]
        losses.append(loss())
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-7, rel=1e-3)


@pytest.mark.parametrize("start", [feedforward, recurrent])
def test_resumed_training_is_the_same_to_the_bit(start: Callable[[Path], MetaTrainer], tmp_path: Path) -> None:
    straight = start(tmp_path / "straight")
    before = {name: tensor.clone() for name, tensor in straight.optimizer.state_dict().items()}
    straight.run()
    first = start(tmp_path / "cut")
    first.run(stop=lambda: first.progress.meta_step == 2)
    second = start(tmp_path / "cut")
    assert second.progress.meta_step == 2
    second.run()
    after = straight.optimizer.state_dict()
    for name, tensor in second.optimizer.state_dict().items():
        assert torch.equal(tensor, after[name]), name
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert "head" in moved
    assert ("pyramid" in moved) == (start is feedforward)
