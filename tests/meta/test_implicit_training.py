"""Training of precisions: resume to the bit, weights that move, corrupted views."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learn2splat import native
from learn2splat.cameras import Cameras
from learn2splat.config import build, compose
from learn2splat.implicit import InnerProblem, Report, Solver, optimum
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.contexts import ContextRanges, PredictedTasks, corrupted, refinement
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.implicit import DeployedSolver, ImplicitEstimator
from learn2splat.meta.life import begin
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.adam import Adam
from learn2splat.predict.base import Prediction
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.proximal import Proximal
from learn2splat.render.cpu import CpuRenderer
from learn2splat.residuals import Residuals, RootPhotometric, SquaredError
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from tests.test_rollout import assert_equal, capture, start_scene

needs_library = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
CONTEXTS = ContextRanges(views=(2, 2), targets=2, long_side=(16, 24))


class Same:
    """An initialiser that always says the same."""

    long_side = None

    def __call__(self, images: torch.Tensor, cameras: Cameras) -> Prediction:
        return Prediction(start_scene())


RANGES = PredictedTasks(CONTEXTS, Same(), share_corrupted=0.5)
SETTINGS = TrainSettings(meta_steps=4, samples=1, validate_every=2, checkpoint_seconds=1e9, lr=1e-2, warm_up=1)


SOLVERS = [
    (Solver(Adam(), first_steps=3, last_steps=3, stationary=1.0), SquaredError()),
    (DeployedSolver(Adam(), first_steps=6), RootPhotometric(PhotometricLoss())),
]


def training(folder: Path, solver: Solver, residuals: Residuals) -> MetaTrainer:
    torch.manual_seed(0)
    estimator = ImplicitEstimator(TaskSource([capture()], RANGES), CpuRenderer(), solver, residuals)
    return MetaTrainer(UncertaintyHead(width=8), estimator, SETTINGS, folder, lambda _: 0.0)


@needs_library
@pytest.mark.parametrize(("solver", "residuals"), SOLVERS)
def test_resumed_training_is_the_same_to_the_bit(tmp_path: Path, solver: Solver, residuals: Residuals) -> None:
    straight = training(tmp_path / "straight", solver, residuals)
    before = {name: tensor.clone() for name, tensor in straight.optimizer.state_dict().items()}
    straight.run()
    first = training(tmp_path / "cut", solver, residuals)
    first.run(stop=lambda: first.progress.meta_step == 2)
    second = training(tmp_path / "cut", solver, residuals)
    second.run()
    after = straight.optimizer.state_dict()
    for name, tensor in second.optimizer.state_dict().items():
        assert torch.equal(tensor, after[name]), name
        assert not torch.equal(tensor, before[name]), name
    row = straight.progress.history[-1]
    assert 0 < row["weight"] <= 1
    assert row["stationarity"] < float("inf")
    assert row["pcg_iterations"] >= 1
    assert row["deaths"] == 0


@needs_library
def test_what_is_deployed_is_a_run_to_the_bit_and_a_strong_pull_hands_its_cotangent_to_the_anchor() -> None:
    loss, anchor = SceneLoss(capture(), CpuRenderer(), PhotometricLoss()), start_scene()
    problem = InnerProblem(loss, loss.data.train, RootPhotometric(PhotometricLoss()))

    def layer(weight: float) -> tuple[GaussianScene, GaussianScene, Report]:
        leaf = anchor.map(lambda t: t.clone().requires_grad_())
        precision = anchor.map(lambda t: torch.full_like(t, weight))
        return leaf, *optimum(leaf, precision, problem, DeployedSolver(Adam(), first_steps=4, limit=200))

    _, found, report = layer(0.1)
    task = refinement(loss.data, anchor, seed=0)
    life = begin(task, Adam(), CpuRenderer(), ends_at=4, horizon=4)
    life.rollout.proximal = Proximal(anchor, anchor.map(lambda t: torch.full_like(t, 0.1)))
    list(life.rollout.run(4))
    assert_equal(found.detach(), life.rollout.state.output)
    assert report.steps == 4
    leaf, found, report = layer(1e7)
    cotangent = found.map(lambda t: torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t))
    handed = torch.autograd.grad(found.tensors(), leaf.tensors(), cotangent.tensors())
    assert report.weight == 1
    for got, expected in zip(handed, cotangent.tensors(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_one_patch_of_one_photo_is_corrupted() -> None:
    clean = capture()
    data = corrupted(clean, 3, seed=5)
    for view in range(len(clean.photos)):
        same = bool((data.photos[view] == clean.photos[view]).all())
        assert same == (view != 3)
    changed = (data.photos[3] != clean.photos[3]).any(dim=-1)
    assert float(changed.double().mean()) <= 0.26
    assert torch.equal(corrupted(clean, 3, seed=5).photos[3], data.photos[3])


def test_the_experiment_is_built_from_its_configuration() -> None:
    config = compose("meta_train", ["experiment=implicit"])
    tasks = TaskSource([capture()], build(config.ranges))
    assert isinstance(build(config.trainee), UncertaintyHead)
    estimator = build(config.estimator, tasks=tasks, renderer=CpuRenderer(), device="cpu")
    assert estimator.solver.first_steps == config.estimator.solver.first_steps
