"""Diff3R's differentiable optimisation layer (arXiv 2604.01030): solve inside, implicit gradient outside.

    optimum(anchor, precision) = argmin_theta loss(theta) + (theta - anchor)^T diag(precision) (theta - anchor) / 2

The loss is one of context views. With F(theta) the gradient of that sum, F = 0 defines the optimum, so that
(H + diag(precision)) d optimum = precision d anchor - (optimum - anchor) d precision, H the Hessian of the loss. For
dL / d optimum = b one solve (H + diag(precision)) v = b gives dL / d anchor = precision v and
dL / d precision = -v (optimum - anchor). What was done to find the optimum leaves no trace: memory does not depend on
the number of inner steps.

This holds at a stationary point alone. ``stationarity`` says how close one is; cotangents of samples that are not close
enough, or whose linear system is not solved, are scaled down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from learn2splat import pcg
from learn2splat.optim.base import SceneOptimizer, StepContext, apply_update, to_device
from learn2splat.optim.lm import LevenbergMarquardt
from learn2splat.proximal import Proximal, ProximalModel
from learn2splat.residuals import Residuals, SquaredError
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix, from_matrix
from learn2splat.scene_loss import SceneLoss
from learn2splat.scene_model import SceneModel

TENSORS = 5
"""Tensors of a `GaussianScene`."""


@dataclass(frozen=True)
class InnerProblem:
    """The loss of a scene on context views.

    Args:
        scene_loss: photos, renderer and background; its own image loss is not used.
        views: the context.
        residuals: the image loss. Implicit gradients need one that is smooth, as squared errors are.
    """

    scene_loss: SceneLoss
    views: Sequence[int]
    residuals: Residuals = field(default_factory=SquaredError)

    def model(self, scene: GaussianScene) -> SceneModel:
        """Value, gradient and Gauss-Newton products at ``scene``."""
        return SceneModel(self.scene_loss, self.residuals, scene, self.views)


class Curvature(Protocol):
    """Products with (an approximation of) the Hessian of the loss."""

    def at(self, problem: InnerProblem, scene: GaussianScene) -> Callable[[GaussianScene], GaussianScene]:
        """v -> H v at ``scene``."""
        ...


class GaussNewton:
    """J^T B J, without the second derivatives of the pictures: cheap, never indefinite, and biased.

    The bias grows with the residuals and as the precision falls below the curvature (``benchmarks/implicit.py``).
    """

    def at(self, problem: InnerProblem, scene: GaussianScene) -> Callable[[GaussianScene], GaussianScene]:
        return problem.model(scene).product


@dataclass(frozen=True)
class ExactHessian:
    """Central differences of the gradient: no bias, the cost of two gradients, and best in float64.

    Args:
        step: largest change of a raw parameter, in that parameter's unit.
    """

    step: float = 1e-6

    def at(self, problem: InnerProblem, scene: GaussianScene) -> Callable[[GaussianScene], GaussianScene]:
        def product(direction: GaussianScene) -> GaussianScene:
            size = max(float(tensor.abs().max()) for tensor in direction.tensors())
            if size == 0.0:
                return direction
            h = self.step / size
            ahead, behind = (
                problem.model(scene.map(lambda at, way, h=h: at + h * way, direction)).gradient for h in (h, -h)
            )
            return ahead.map(lambda one, two: (one - two) / (2 * h), behind)

        return product


@dataclass
class Report:
    """What one use of the layer found; the backward pass fills in its part.

    Args:
        steps: inner steps that were taken.
        stationarity: see `stationarity`.
        weight: share in 0..1 of the cotangents that is passed on.
        pcg: the solve of the backward pass, None before it.
    """

    steps: int = 0
    stationarity: float = math.inf
    weight: float = 0.0
    pcg: pcg.Solution | None = None


def polish() -> LevenbergMarquardt:
    """Levenberg-Marquardt that goes all the way: damping may fall to nothing, and systems are solved well."""
    return LevenbergMarquardt(least_damping=1e-6, memory=0.0, iterations=20, tolerance=1e-2)


@dataclass(frozen=True)
class Solver:
    """How the optimum is found, and how its cotangents are pulled back.

    Args:
        first: takes the first steps, for example `adam-tuned`.
        first_steps: how many.
        last: takes steps until the point is stationary; its steps must be made from `StepContext.model`.
        last_steps: how many at most.
        stationary: the stationarity that is aimed at, and beyond which cotangents are scaled down.
        curvature: H.
        tolerance: relative residual of the backward solve at which it ends.
        limit: most products with H in it.
        solved: relative residual beyond which cotangents are scaled down.
    """

    first: SceneOptimizer
    first_steps: int = 20
    last: SceneOptimizer = field(default_factory=polish)
    last_steps: int = 30
    stationary: float = 0.05
    curvature: Curvature = field(default_factory=GaussNewton)
    tolerance: float = 5e-2
    limit: int = 60
    solved: float = 0.2

    def optimum(self, problem: InnerProblem, proximal: Proximal) -> tuple[GaussianScene, Report]:
        """The stationary point that descent from the anchor reaches, and how close to one it is."""
        scene = proximal.anchor
        for _, moved in _descent(self.first, problem, proximal, scene, self.first_steps):
            scene = moved
        steps, closeness = self.first_steps, stationarity(problem, proximal, scene)
        if closeness > self.stationary:
            for model, moved in _descent(self.last, problem, proximal, scene, self.last_steps):
                closeness = _stationarity(model, proximal, scene)
                if closeness <= self.stationary:
                    break
                scene, steps = moved, steps + 1
            else:
                closeness = stationarity(problem, proximal, scene)
        return scene, Report(steps, closeness, min(1.0, self.stationary / closeness) ** 2 if closeness > 0 else 1.0)

    def adjoint(
        self, problem: InnerProblem, proximal: Proximal, optimum: GaussianScene, cotangent: GaussianScene
    ) -> pcg.Solution:
        """v of (H + diag(precision)) v = cotangent, [N, P] as in `as_matrix`."""
        weights = as_matrix(proximal.precision)
        product = self.curvature.at(problem, optimum)
        diagonal = as_matrix(problem.model(optimum).diagonal()) + weights

        def damped(v: Tensor) -> Tensor:
            return as_matrix(product(from_matrix(v))) + weights * v

        return pcg.solve(damped, as_matrix(cotangent), pcg.jacobi(diagonal), self.tolerance, self.limit)


def stationarity(problem: InnerProblem, proximal: Proximal, scene: GaussianScene) -> float:
    """|F / M| over |scene - anchor|, both in the norm of M = diag(H + diag(precision)); 0 at a stationary point.

    F / M is about the way that is left to the optimum: the measure is that way, relative to the way that was made. It
    does not depend on the units of the parameters.
    """
    return _stationarity(ProximalModel(problem.model(scene), proximal, scene), proximal, scene)


def optimum(
    anchor: GaussianScene, precision: GaussianScene, problem: InnerProblem, solver: Solver
) -> tuple[GaussianScene, Report]:
    """The layer: the optimum, differentiable by autograd (once) in ``anchor`` and ``precision``.

    Args:
        anchor: N Gaussians from any model; the optimisation starts at them.
        precision: positive, in the shapes of ``anchor``. The anchor gets no gradient where it is next to nothing: an
            optimum forgets its start.
        problem: the loss on the context.
        solver: how it is found.

    Returns:
        the optimum, and a report to which the backward pass adds its part.

    Raises:
        ValueError: a precision is not positive and finite, or of another shape.
    """
    if not all(bool((weights > 0).all()) for weights in precision.tensors()):
        raise ValueError("precision must be positive everywhere; add a small floor")
    report = Report()
    found = _Optimum.apply(problem, solver, report, *anchor.tensors(), *precision.tensors())
    return GaussianScene(*found), report


class _Optimum(torch.autograd.Function):
    """`optimum` in tensors."""

    @staticmethod
    def forward(
        ctx: Any, problem: InnerProblem, solver: Solver, report: Report, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        proximal = _proximal(tensors)
        scene, found = solver.optimum(problem, proximal)
        vars(report).update(vars(found))
        ctx.problem, ctx.solver, ctx.report = problem, solver, report
        ctx.save_for_backward(*scene.tensors(), *tensors)
        return scene.tensors()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        scene, proximal, report = GaussianScene(*saved[:TENSORS]), _proximal(saved[TENSORS:]), ctx.report
        report.pcg = ctx.solver.adjoint(ctx.problem, proximal, scene, GaussianScene(*cotangents))
        if report.pcg.ending is pcg.Ending.NEGATIVE_CURVATURE:
            report.weight = 0.0  # a stationary point, but no minimum
        elif report.pcg.residuals[-1] > 0:
            report.weight *= min(1.0, ctx.solver.solved / report.pcg.residuals[-1]) ** 2
        v = from_matrix(report.weight * report.pcg.x)
        by_anchor = v.map(torch.mul, proximal.precision)
        by_precision = v.map(lambda v, at, anchor: -v * (at - anchor), scene, proximal.anchor)
        return None, None, None, *by_anchor.tensors(), *by_precision.tensors()


def _proximal(tensors: Sequence[Tensor]) -> Proximal:
    detached = [tensor.detach() for tensor in tensors]
    return Proximal(GaussianScene(*detached[:TENSORS]), GaussianScene(*detached[TENSORS:]))


def _stationarity(model: ProximalModel, proximal: Proximal, scene: GaussianScene) -> float:
    gradient, scale = as_matrix(model.gradient), as_matrix(model.diagonal())
    change = as_matrix(scene.map(torch.sub, proximal.anchor))
    left, made = pcg.dot(gradient, gradient / scale), pcg.dot(change, scale * change)
    return math.sqrt(left / made) if made > 0 else (math.inf if left > 0 else 0.0)


@torch.no_grad()
def _descent(
    optimizer: SceneOptimizer, problem: InnerProblem, proximal: Proximal, scene: GaussianScene, steps: int
) -> Iterator[tuple[ProximalModel, GaussianScene]]:
    """Pairs (model before the step, scene after it)."""
    loss, views = problem.scene_loss, len(problem.views)
    cameras = loss.cameras.take(list(problem.views))
    to_device(optimizer, loss.device)
    footprint = pixel_footprint_world(scene.means, cameras, loss.renderer.settings.near)
    visible = torch.ones(len(scene), dtype=torch.bool, device=scene.means.device)
    state = optimizer.init(scene)
    for step in range(steps):
        model = ProximalModel(problem.model(scene), proximal, scene)
        context = StepContext(
            step,
            steps,
            views,
            views,
            cameras.extent_world or 1.0,
            visible,
            model.value,
            footprint,
            model=model,
            photo_side_px=cameras.longest_side,
        )
        update, state = optimizer.update(model.gradient, state, scene, context)
        scene = apply_update(scene, update)
        yield model, scene
