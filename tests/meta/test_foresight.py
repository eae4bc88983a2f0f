"""Training for what an optimizer makes of predictions: reductions, surrogate gradient, no graph through the loop."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from learn2splat import native
from learn2splat.config import compose
from learn2splat.implicit import Solver
from learn2splat.meta.contexts import ContextRanges, refinement
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.feedforward import TargetEstimator
from learn2splat.meta.foresight import Anchors, Credit, Displacement, ForesightEstimator
from learn2splat.meta.implicit import Optimum
from learn2splat.meta.life import begin
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import OptimizerState, SceneOptimizer, StepContext
from learn2splat.optim.learned.pretrained import load_pretrained
from learn2splat.optim.rates import GroupRates, PositionDecay
from learn2splat.optim.sgd import Sgd
from learn2splat.optim.wrapped import Wrapped
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.render.base import Renderer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scoring import ForesightScore, PredictionScore
from tests.predict.test_compact import network
from tests.test_rollout import capture

RANGES = ContextRanges(views=(2, 3), targets=2, long_side=(16, 24))
SETTINGS = TrainSettings(meta_steps=3, samples=2, validate_every=2, checkpoint_seconds=1e9, lr=1e-3, warm_up=1)
ADAM = Adam(GroupRates(), PositionDecay())
RESTING = Sgd(GroupRates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def tasks() -> TaskSource:
    return TaskSource([capture()], RANGES)


def foresight(
    inner: SceneOptimizer = ADAM,
    credit: Credit = Anchors(3),
    steps: tuple[int, int] = (8, 8),
    now: float = 0.0,
    renderer: Renderer = ReferenceRenderer(),
) -> ForesightEstimator:
    return ForesightEstimator(tasks(), renderer, inner, credit, steps, horizon=20, now=now)


def gradient(estimator: TargetEstimator, net: CompactInitialiser) -> tuple[float, dict[str, torch.Tensor]]:
    """What an estimator reports, and what it adds to the gradients."""
    net.zero_grad()
    loss = estimator.accumulate(net, 1, 0.0, torch.Generator().manual_seed(3))["loss"]
    return loss, {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def by_hand(credit_steps: list[int], net: CompactInitialiser) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean held-out loss and mean gradient at the scenes after ``credit_steps``, pushed through the network."""
    generator = torch.Generator().manual_seed(3)
    data = tasks().draw(generator)
    torch.randint(8, 9, (), generator=generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    images = torch.stack([data.photos[view] for view in data.train]).float() / 255
    scene = net(images, data.cameras.take(data.train)).scene
    life = begin(refinement(data, scene.detach(), seed), ADAM, ReferenceRenderer(), 8, horizon=20)
    judged = []
    for step in range(1, 9):
        assert life.rollout.step() is not None
        if step in credit_steps:
            judged.append(life.rollout.scene_loss.gradient(life.rollout.state.output, data.test))
    total = torch.zeros(())
    for found in judged:
        for tensor, grad in zip(scene.tensors(), found.grads.tensors(), strict=True):
            total = total + (tensor * grad).sum() / len(judged)
    grads = torch.autograd.grad(total, list(net.parameters()))
    names = [name for name, _ in net.named_parameters()]
    return sum(found.loss for found in judged) / len(judged), dict(zip(names, grads, strict=True))


def test_a_share_of_one_for_the_prediction_is_plain_training_step_for_step(tmp_path: Path) -> None:
    nets = []
    for estimator in (TargetEstimator(tasks(), ReferenceRenderer()), foresight(now=1.0)):
        torch.manual_seed(0)
        net = CompactInitialiser(width=8, planes=6, groups=2, neighbours=3, blocks=1)
        MetaTrainer(net, estimator, SETTINGS, tmp_path / type(estimator).__name__, lambda _: 0.0).run()
        nets.append(net.state_dict())
    for name, tensor in nets[0].items():
        assert torch.equal(tensor, nets[1][name]), name


@pytest.mark.parametrize(("stride", "anchors"), [(3, [3, 6]), (1, list(range(1, 9))), (1000, [8])])
def test_the_gradient_is_that_of_the_surrogate_with_the_mean_anchor_gradient(stride: int, anchors: list[int]) -> None:
    net = network()
    loss, found = gradient(foresight(credit=Anchors(stride)), net)
    expected_loss, expected = by_hand(anchors, net)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-6, atol=1e-9)


def test_the_share_for_the_prediction_blends_the_two_gradients() -> None:
    net = network()
    later, now, both = (gradient(foresight(now=share), net) for share in (0.0, 1.0, 0.25))
    assert both[0] == pytest.approx(0.25 * now[0] + 0.75 * later[0], rel=1e-6)
    for name, grad in both[1].items():
        torch.testing.assert_close(grad, 0.25 * now[1][name] + 0.75 * later[1][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("stride", [1, 3, 1000])
def test_with_an_optimizer_at_rest_every_anchor_is_the_prediction(stride: int) -> None:
    net = network()
    _, plain = gradient(TargetEstimator(tasks(), ReferenceRenderer()), net)
    _, found = gradient(foresight(RESTING, Anchors(stride)), net)
    for name, grad in plain.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-7)


def test_reptile_pulls_the_prediction_to_where_the_refinement_ends() -> None:
    data = tasks().draw(torch.Generator().manual_seed(0))
    images = torch.stack([data.photos[view] for view in data.train]).float() / 255
    with torch.no_grad():
        start = network().float()(images, data.cameras.take(data.train)).scene
    straight, credited = (begin(refinement(data, start, 5), ADAM, ReferenceRenderer(), 4) for _ in range(2))
    for _ in range(4):
        straight.rollout.step()
    judged = Displacement()(credited, 4)
    assert judged is not None
    for before, pull, end in zip(
        start.tensors(), judged[1].tensors(), straight.rollout.state.output.tensors(), strict=True
    ):
        torch.testing.assert_close(before - pull, end)
    assert max(float(pull.abs().max()) for pull in judged[1].tensors()) > 0
    assert all(not grad.any() for grad in gradient(foresight(RESTING, Displacement()), network())[1].values())


@pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
def test_through_an_optimum_that_is_held_fast_the_gradient_is_that_of_the_prediction() -> None:
    net = network().float()
    loss, plain = gradient(TargetEstimator(tasks(), CpuRenderer()), net)
    near = Solver(ADAM, first_steps=0, last_steps=2, limit=10)
    held, found = gradient(foresight(credit=Optimum(UncertaintyHead(start=999.0), near), renderer=CpuRenderer()), net)
    assert held == pytest.approx(loss, rel=1e-2)
    for name, grad in plain.items():
        if float(grad.norm()) > 1e-6:
            assert float(cosine_similarity(grad.flatten(), found[name].flatten(), dim=0)) > 0.98, name


class Counting(Wrapped):
    """Counts how many of its states are alive at once, and whether any has a graph."""

    def __init__(self, optimizer: SceneOptimizer) -> None:
        super().__init__(optimizer)
        self.alive: list[weakref.ref[torch.Tensor]] = []
        self.most, self.graphs = 0, 0

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        update, state = self.optimizer.update(grads, state, scene, context)
        tensors = [*update.tensors(), *scene.tensors(), *grads.tensors(), *state.rows.values()]
        self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(tensor) for tensor in tensors]
        self.most = max(self.most, len(self.alive))
        self.graphs += sum(tensor.requires_grad for tensor in tensors)
        return update, state


@pytest.mark.parametrize("name", ["adam", "learned-rule"])
def test_memory_does_not_grow_with_the_number_of_steps(name: str) -> None:
    most = []
    for steps in (12, 48):
        inner = Counting(ADAM if name == "adam" else load_pretrained(name))
        gradient(foresight(inner, steps=(steps, steps)), network())
        most.append(inner.most)
        assert inner.graphs == 0
    assert most[0] == most[1]


def test_the_learned_optimizer_of_the_loop_gets_no_gradient() -> None:
    inner = load_pretrained("learned-rule")
    loss, found = gradient(foresight(inner), network())
    assert loss > 0
    assert found
    assert all(parameter.grad is None for parameter in inner.parameters())


def test_the_score_of_zero_steps_is_that_of_the_prediction_and_of_rest_too() -> None:
    small = ["procedural=1", "views=8", "width=32", "max_size=32"]
    config = compose("meta_train", [f"validation.{entry}" for entry in small])
    net, given = network().float(), (config.validation, config.renderer)
    plain = PredictionScore(RANGES, *given)(net)
    assert ForesightScore(RANGES, ADAM, [0], 20, *given)(net) == pytest.approx(plain, abs=1e-4)
    assert ForesightScore(RANGES, RESTING, [0, 5], 20, *given)(net) == pytest.approx(plain, abs=1e-4)
    assert abs(ForesightScore(RANGES, ADAM, [5], 20, *given)(net) - plain) > 1e-3


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="stride=0"):
        Anchors(0)
    with pytest.raises(ValueError, match=r"steps=\[5, 4\]"):
        foresight(steps=(5, 4))
    with pytest.raises(ValueError, match=r"now=1\.5"):
        foresight(now=1.5)
