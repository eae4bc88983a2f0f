"""Training of initialisers and recurrent updaters: tasks, exact gradients, resume to the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn2splat.data.base import SceneData
from learn2splat.data.resize import shrink
from learn2splat.data.sources import load_scene
from learn2splat.meta.contexts import ContextRanges, PredictedTasks, refinement
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.feedforward import TargetEstimator, depth_error
from learn2splat.meta.learner import roll_out, run_window
from learn2splat.meta.life import begin
from learn2splat.meta.objective import Discounted
from learn2splat.meta.recurrent import ShortLives
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.train import MetaTrainer
from learn2splat.networks.pyramid import CELL
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.predict.base import Prediction
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from tests.conftest import random_scene
from tests.predict.test_compact import network
from tests.test_rollout import capture, start_scene

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


def with_depths() -> SceneData:
    """As if surfaces were 2 to 4 away in the upper half of every photo; below, there are none."""
    depths = torch.zeros(6, 24, 32)
    depths[:, :12] = 2 + 2 * torch.rand(6, 12, 32, generator=torch.Generator().manual_seed(0))
    return replace(capture(), depths=depths)


def test_the_depth_error_is_over_the_pixels_of_surfaces() -> None:
    data = replace(with_depths(), train=[1, 4])
    cells = 0.5 + torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scene = random_scene(2 * 6 * 8)
    found = depth_error(Prediction(scene, log_depths=cells.log()), data)
    pairs = [
        (float(cells[row, y // CELL, x // CELL]), float(data.depths[view][y, x]))
        for row, view in enumerate(data.train)
        for y in range(24)
        for x in range(32)
        if data.depths is not None and data.depths[view][y, x] > 0
    ]
    assert len(pairs) == 2 * 12 * 32
    assert float(found) == pytest.approx(sum(abs(math.log(a / b)) for a, b in pairs) / len(pairs), rel=1e-6)
    assert float(depth_error(Prediction(scene), data)) == 0
    assert float(depth_error(Prediction(scene, log_depths=cells.log()), capture())) == 0


def test_shrunk_depths_are_depths_of_the_photo_and_made_scenes_have_them() -> None:
    scene = load_scene("procedural:seed=100002,views=3,width=32", max_size=32, test_every=0)
    small = shrink(scene, 16)
    assert scene.depths is not None
    assert small.depths is not None
    for view in range(3):
        assert small.depths[view].shape == (12, 16)
        assert bool(torch.isin(small.depths[view], scene.depths[view]).all())
        assert float((small.depths[view] / scene.depths[view][1::2, 1::2] - 1).abs().median()) < 0.05


def test_an_updater_fits_one_scene() -> None:
    """R4: trained on one task alone, four iterations gain 3 dB on views that it is not shown."""
    data = replace(capture(), train=[1, 2, 4, 5], test=[0, 3])
    task = refinement(data, start_scene().with_sh_degree(1), seed=0)
    torch.manual_seed(0)
    net = RecurrentUpdater(width=16, blocks=1)
    adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(36):
        adam.zero_grad()
        life = begin(task, net.train(), CpuRenderer(), 4)
        run_window(life, 4, 0, Discounted(held_views=2), 0.0, seed=0).loss.backward()
        adam.step()
    life = begin(task, net.eval(), CpuRenderer(), 4)
    on, before = life.rollout.scene_loss, life.rollout.state.scene
    assert roll_out(life, 4)
    assert on.psnr(life.rollout.state.scene, life.held) > on.psnr(before, life.held) + 3


def test_tasks_carry_what_the_initialiser_knows() -> None:
    """And training reaches the map from there to the hidden state."""
    torch.manual_seed(0)
    initialiser = CompactInitialiser(width=8, planes=6, groups=2, neighbours=3, blocks=1).eval()
    task = PredictedTasks(RANGES, initialiser).draw(capture(), torch.Generator().manual_seed(0))
    assert task.features is not None
    assert task.features.shape == (len(task.initial), 8)
    net = RecurrentUpdater(width=8, blocks=1)
    torch.nn.init.normal_(net.head[-1].weight, std=0.1)
    life = begin(task, net.train(), ReferenceRenderer(), 2)
    run_window(life, 2, 0, Discounted(held_views=2), 0.0, seed=0).loss.backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in net.start.parameters())


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
    """And, while depths are supervised, of their error: weighted, and less and less so."""
    net = network().train()
    estimator = TargetEstimator(TaskSource([with_depths()], RANGES), ReferenceRenderer(), depth=0.5)

    def loss() -> float:
        found = estimator.accumulate(net, 1, 0.4, torch.Generator().manual_seed(3))
        assert found["depth_error"] > 0.1
        return found["loss"] + 0.5 * 0.6 * found["depth_error"]

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
