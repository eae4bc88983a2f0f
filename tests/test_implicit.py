"""Diff3R's layer: implicit gradients against finite differences and unrolling, its limits, its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from learn2splat import native
from learn2splat.config import build, compose
from learn2splat.data.base import SceneData
from learn2splat.implicit import ExactHessian, GaussNewton, InnerProblem, Solver, optimum, stationarity
from learn2splat.losses import PhotometricLoss
from learn2splat.memory import peak_memory_mb
from learn2splat.optim.base import Need, OptimizerState, SceneOptimizer, StepContext
from learn2splat.proximal import Proximal
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.matrix import as_matrix, from_matrix
from learn2splat.scene_loss import SceneLoss
from tests.conftest import random_scene, ring_cameras

needs_library = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
CONTEXT, TARGETS = [0, 1], [2]


@dataclass(frozen=True)
class Chord:
    """theta - M^-1 gradient with one matrix for all steps."""

    matrix: Tensor
    needs = frozenset[Need]()

    def init(self, scene: GaussianScene) -> OptimizerState:
        return OptimizerState()

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        return self.step(grads), state

    def step(self, grads: GaussianScene) -> GaussianScene:
        rows = as_matrix(grads)
        return from_matrix(-torch.linalg.solve(self.matrix, rows.flatten()).view_as(rows))

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state


@cache
def tuned_adam() -> SceneOptimizer:
    built: SceneOptimizer = build(compose("optimize", ["optimizer=adam-tuned"]).optimizer)
    return built


@cache
def start() -> tuple[SceneData, GaussianScene]:
    """Pictures of four wide, faint Gaussians, so that few decisions are near, and a scene close by."""
    truth = random_scene(4, seed=11, degree=0)
    truth = replace(truth, log_scales=truth.log_scales + 0.8, logit_opacities=truth.logit_opacities - 1)
    cameras = ring_cameras(3, 10, 8)
    images = ReferenceRenderer().render(truth, cameras).image
    photos = [(image.clamp(0, 1) * 255).round().byte() for image in images]
    generator = torch.Generator().manual_seed(1)
    moved = truth.map(lambda t: t + 0.15 * torch.randn(t.shape, generator=generator, dtype=t.dtype))
    return SceneData("tiny", cameras, photos, ["0", "1", "2"], None, CONTEXT, TARGETS), moved


def exact_loss() -> SceneLoss:
    return SceneLoss(start()[0], ReferenceRenderer(), PhotometricLoss())


def fast_loss() -> SceneLoss:
    return SceneLoss(start()[0], CpuRenderer(), PhotometricLoss())


@cache
def gauss_newton_matrix() -> Tensor:
    """J^T B J at the start, column by column."""
    product = InnerProblem(exact_loss(), CONTEXT).model(start()[1]).product
    size = as_matrix(start()[1]).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, len(start()[1]), -1)
    return torch.stack([as_matrix(product(from_matrix(unit))).flatten() for unit in units])


def precision(scale: float, seed: int = 2) -> GaussianScene:
    """0.5 to 1.5 times ``scale``, in units of the mean curvature of each parameter."""
    diagonal = from_matrix(gauss_newton_matrix().diagonal().view(len(start()[1]), -1))
    generator = torch.Generator().manual_seed(seed)
    return diagonal.map(lambda t: scale * t.mean() * (0.5 + torch.rand(t.shape, generator=generator, dtype=t.dtype)))


def chord(scale: float) -> Chord:
    return Chord(gauss_newton_matrix() + torch.diag(as_matrix(precision(scale)).flatten()))


def solver(scale: float, steps: int, curvature: object = GaussNewton()) -> Solver:
    return Solver(  # type: ignore[arg-type]
        chord(scale), steps, last_steps=0, stationary=1e-4, curvature=curvature, tolerance=1e-9, limit=200
    )


def held_out(scene: GaussianScene) -> Tensor:
    """Half the mean squared error on the target view, differentiable."""
    loss = exact_loss()
    image = ReferenceRenderer().render(scene, loss.cameras.take(TARGETS)).image
    return 0.5 * (image - loss.photos(TARGETS)).square().mean()


def implicit(scale: float, steps: int, curvature: object) -> tuple[Tensor, Tensor]:
    """Derivatives of `held_out` by the anchor and by the logarithms of the precision."""
    anchor, logs = (s.map(lambda t: t.clone().requires_grad_()) for s in (start()[1], precision(scale).map(torch.log)))
    scene, report = optimum(
        anchor, logs.map(torch.exp), InnerProblem(exact_loss(), CONTEXT), solver(scale, steps, curvature)
    )
    grads = torch.autograd.grad(held_out(scene), [*anchor.tensors(), *logs.tensors()])
    assert report.pcg is not None
    assert report.pcg.residuals[-1] <= 1e-9
    found = as_matrix(GaussianScene(*grads[:5])), as_matrix(GaussianScene(*grads[5:]))
    return found[0] / report.weight, found[1] / report.weight


def direction(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(as_matrix(start()[1]).shape, generator=generator, dtype=torch.float64)


def difference(scale: float, steps: int, by_anchor: Tensor, by_logs: Tensor, h: float = 1e-4) -> float:
    """Central difference of `held_out` at the optimum, along a direction of the anchor and of the logarithms."""
    values = []
    for sign in (1.0, -1.0):
        anchor = from_matrix(as_matrix(start()[1]) + sign * h * by_anchor)
        weights = from_matrix((as_matrix(precision(scale)).log() + sign * h * by_logs).exp())
        found, _ = solver(scale, steps).optimum(InnerProblem(exact_loss(), CONTEXT), Proximal(anchor, weights))
        values.append(float(held_out(found)))
    return (values[0] - values[1]) / (2 * h)


def test_with_exact_curvature_the_gradient_is_the_finite_difference() -> None:
    """D4: of the optimum itself, by the anchor and by the precision."""
    scale, steps = 3.0, 40
    by_anchor, by_logs = implicit(scale, steps, ExactHessian())
    zero = torch.zeros_like(by_anchor)
    one, two = direction(5), direction(6)
    assert float((by_anchor * one).sum()) == pytest.approx(difference(scale, steps, one, zero), rel=1e-3)
    assert float((by_logs * two).sum()) == pytest.approx(difference(scale, steps, zero, two), rel=1e-3)


def test_the_bias_of_gauss_newton_falls_as_the_precision_rises_above_the_curvature() -> None:
    """What it is below, where it is large, is printed by ``benchmarks/implicit.py``."""

    def bias(scale: float) -> list[float]:
        pairs = zip(implicit(scale, 40, GaussNewton()), implicit(scale, 40, ExactHessian()), strict=True)
        return [float((found - exact).norm() / exact.norm()) for found, exact in pairs]

    for low, high in zip(bias(3.0), bias(30.0), strict=True):
        assert high < 0.05
        assert high < low / 3


def test_it_is_the_limit_of_unrolled_differentiation() -> None:
    scale = 10.0
    exact, _ = implicit(scale, 40, ExactHessian())
    loss, weights, take = exact_loss(), precision(scale), chord(scale)
    cameras, photos = loss.cameras.take(CONTEXT), loss.photos(CONTEXT)
    anchor = start()[1].map(lambda t: t.clone().requires_grad_())
    scene, errors = anchor, []
    for step in range(13):
        if step in (1, 4, 12):
            grads = torch.autograd.grad(held_out(scene), anchor.tensors(), retain_graph=True)
            errors.append(float((as_matrix(GaussianScene(*grads)) - exact).norm() / exact.norm()))
        image = ReferenceRenderer().render(scene, cameras).image
        value = 0.5 * (image - photos).square().mean()
        slopes = GaussianScene(*torch.autograd.grad(value, scene.tensors(), create_graph=True))
        pull = scene.map(lambda at, start, weight: weight * (at - start), anchor, weights)
        scene = scene.map(torch.add, take.step(slopes.map(torch.add, pull)))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-2


@needs_library
def test_much_precision_keeps_the_anchor_and_none_leaves_plain_optimisation() -> None:
    """D5."""
    anchor = start()[1].to(dtype=torch.float32)
    problem, few = InnerProblem(fast_loss(), CONTEXT), Solver(tuned_adam(), first_steps=5, last_steps=5)
    held, _ = optimum(
        anchor, precision(1e6).to(dtype=torch.float32), problem, Solver(tuned_adam(), first_steps=0, last_steps=5)
    )
    for name, tensor in held.items():
        torch.testing.assert_close(tensor, getattr(anchor, name), rtol=0, atol=1e-4)
    none = anchor.map(lambda t: torch.full_like(t, 1e-30))
    free, _ = optimum(anchor, none, problem, replace(few, last_steps=0))
    scene, adam = anchor, tuned_adam()
    state = adam.init(scene)
    loss = problem.scene_loss

    footprint = pixel_footprint_world(scene.means, loss.cameras.take(CONTEXT), loss.renderer.settings.near)
    for step in range(5):
        grads = problem.model(scene).gradient
        context = StepContext(step, 5, 2, 2, 1.0, torch.ones(4, dtype=torch.bool), 0.0, footprint)
        update, state = adam.update(grads, state, scene, context)
        scene = scene.map(torch.add, update)
    torch.testing.assert_close(as_matrix(free), as_matrix(scene))


@needs_library
def test_memory_does_not_depend_on_the_number_of_steps() -> None:
    """D6: one node of the graph, the same tensors in it, and no higher a peak."""
    anchor, weights = (s.to(dtype=torch.float32).map(Tensor.requires_grad_) for s in (start()[1], precision(1.0)))
    sizes, peaks = [], []
    for steps in (10, 100, 1000):
        scene, _ = optimum(
            anchor, weights, InnerProblem(fast_loss(), CONTEXT), Solver(tuned_adam(), first_steps=steps, last_steps=0)
        )
        node = scene.means.grad_fn
        assert node is not None
        sizes.append(sum(t.numel() * t.element_size() for t in node.saved_tensors))  # type: ignore[attr-defined]
        assert all(type(after).__name__ == "AccumulateGrad" for after, _ in node.next_functions if after)
        peaks.append(peak_memory_mb())
    assert len(set(sizes)) == 1
    assert peaks[-1] <= 1.02 * peaks[0]


@needs_library
def test_a_point_that_is_not_stationary_counts_little() -> None:
    anchor, weights = (s.to(dtype=torch.float32).map(Tensor.requires_grad_) for s in (start()[1], precision(1.0)))
    problem, found = InnerProblem(fast_loss(), CONTEXT), []
    for last in (0, 30):
        scene, report = optimum(
            anchor, weights, problem, Solver(tuned_adam(), first_steps=2, last_steps=last, stationary=1e-2)
        )
        proximal = Proximal(anchor.detach(), weights.detach())
        assert report.stationarity == pytest.approx(stationarity(problem, proximal, scene.detach()), rel=1e-3)
        assert report.weight == pytest.approx(min(1.0, 1e-2 / report.stationarity) ** 2)
        (grad,) = torch.autograd.grad(scene.means.sum(), weights.means)
        assert bool(grad.isfinite().all())
        assert report.pcg is not None
        found.append(report)
    assert found[0].weight < 0.1
    assert found[1].weight == 1.0
    assert found[1].steps > found[0].steps


def test_a_precision_that_is_not_positive_is_refused() -> None:
    anchor = start()[1]
    with pytest.raises(ValueError, match="precision must be positive"):
        optimum(anchor, anchor.map(torch.zeros_like), InnerProblem(exact_loss(), CONTEXT), Solver(tuned_adam()))
