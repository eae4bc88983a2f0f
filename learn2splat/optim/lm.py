"""Levenberg-Marquardt over Gaussians, matrix-free."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from learn2splat import pcg
from learn2splat.optim.base import (
    Need,
    OptimizerState,
    QuadraticModel,
    StepContext,
    apply_update,
    as_rows,
    from_rows,
    zeros_like,
)
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.matrix import as_matrix, from_matrix

SHRINK = (1.0, 0.25)
"""Lengths of the step that are tried, until one lowers the loss."""
GOOD, POOR = 0.75, 0.25
"""Shares of the predicted reduction above and below which the damping is lowered and raised."""
LOWER, RAISE = 1 / 3, 4.0
LEAST_SCALE = 1e-12
"""Scale of a parameter that no picture depends on, so that its step is 0 / positive."""


class LevenbergMarquardt:
    """One damped Gauss-Newton step per batch (Levenberg 1944; Marquardt 1963), by conjugate gradients.

    The step v solves (H + damping D) v = -g with the batch's `QuadraticModel` H = J^T B J. It is taken at the longest
    of `SHRINK` that lowers the batch's loss, else not at all; the ratio of that reduction to the predicted one moves
    the damping. 3DGS-LM (Höllein et al. 2025) does likewise on batches of many views.

    D is a diagonal of the parameters' own scale, so that the step does not depend on their units. As in Moré 1978 it
    remembers: D <- max(memory D, diag H), which holds back what matters to views of earlier batches. The share
    ``floor`` of its mean over all Gaussians is added, without which what is hardly seen would move without bounds.

    Args:
        residuals: "squared": squared errors; "photometric": the loss that is scored, by square-rooted residuals.
        damping: at the first step.
        least_damping: it never falls below.
        memory: in [0, 1): of D, per step.
        floor: share of a parameter's mean curvature that is added to D.
        pixels: share of the batch's pixels, drawn anew for each step, that it is made from.
        iterations: products with H per step.
        tolerance: relative residual at which to solve no further.
        preconditioner: "blocks" of a Gaussian's mean, scales and quaternion, or just the "diagonal".
    """

    def __init__(
        self,
        residuals: Literal["photometric", "squared"] = "squared",
        damping: float = 1.0,
        least_damping: float = 0.1,
        memory: float = 0.9,
        floor: float = 0.1,
        pixels: float = 1.0,
        iterations: int = 8,
        tolerance: float = 5e-2,
        preconditioner: Literal["diagonal", "blocks"] = "blocks",
    ) -> None:
        if residuals not in ("photometric", "squared"):
            raise ValueError(f"residuals is {residuals!r}; it must be 'photometric' or 'squared'")
        if preconditioner not in ("diagonal", "blocks"):
            raise ValueError(f"preconditioner is {preconditioner!r}; it must be 'diagonal' or 'blocks'")
        if not 0.0 <= memory < 1.0:
            raise ValueError(f"memory is {memory}; it must lie in [0, 1)")
        if not 0.0 < pixels <= 1.0:
            raise ValueError(f"pixels is {pixels}; it must lie in (0, 1]")
        positive = {"damping": damping, "least_damping": least_damping, "floor": floor, "iterations": iterations}
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        self.residuals, self.preconditioner, self.memory, self.floor = residuals, preconditioner, memory, floor
        self.damping, self.least_damping, self.pixels = damping, least_damping, pixels
        self.iterations, self.tolerance = iterations, tolerance

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOSS_MODEL if self.residuals == "photometric" else Need.SQUARED_ERROR_MODEL})

    def init(self, scene: GaussianScene) -> OptimizerState:
        damping = torch.tensor(self.damping, dtype=torch.float64)
        return OptimizerState(as_rows("curvature", zeros_like(scene)), {"damping": damping})

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        model = context.model
        if model is None:
            raise ValueError("Levenberg-Marquardt needs StepContext.model")
        model = model.sampled(self.pixels, torch.Generator().manual_seed(context.step))
        damping = float(state.shared["damping"])
        diagonal, blocks = (model.diagonal(), None) if self.preconditioner == "diagonal" else model.blocks()
        curvature = from_rows("curvature", state).map(lambda old, new: torch.maximum(self.memory * old, new), diagonal)
        scale = damping * as_matrix(curvature.map(self._floored))
        way = self._solve(model, as_matrix(diagonal), blocks, scale)
        step, ratio = self._search(model, scene, way, scale)
        if ratio > GOOD:
            damping = max(self.least_damping, LOWER * damping)
        elif ratio < POOR:
            damping = RAISE * damping
        shared = {"damping": torch.tensor(damping, dtype=torch.float64)}
        return step, OptimizerState(as_rows("curvature", curvature), shared)

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)

    def _floored(self, curvature: Tensor) -> Tensor:
        return curvature + self.floor * curvature.mean(dtype=torch.float64).to(curvature) + LEAST_SCALE

    def _solve(self, model: QuadraticModel, diagonal: Tensor, blocks: Tensor | None, scale: Tensor) -> Tensor:
        """(H + diag(scale))^-1 (-g), all [N, P]."""
        precondition = pcg.jacobi(diagonal + scale)
        if blocks is not None:
            side = blocks.shape[-1]
            precondition = pcg.block_jacobi(blocks + torch.diag_embed(scale[:, :side]), diagonal + scale)

        def damped(v: Tensor) -> Tensor:
            return as_matrix(model.product(from_matrix(v))) + scale * v

        b = -as_matrix(model.gradient)
        return pcg.solve(damped, b, precondition, self.tolerance, self.iterations).x

    def _search(
        self, model: QuadraticModel, scene: GaussianScene, way: Tensor, scale: Tensor
    ) -> tuple[GaussianScene, float]:
        """The step to take along ``way``, and its reduction of the loss over the predicted one; none has ratio 0.

        A solution of conjugate gradients has v^T (H + diag(scale)) v = -g^T v, which gives v^T H v without a product.
        """
        slope = pcg.dot(as_matrix(model.gradient), way)
        bend = -slope - pcg.dot(way, scale * way)
        if not slope < 0:
            return zeros_like(scene), 0.0
        for length in SHRINK:
            step = from_matrix(length * way)
            reduction = model.value - model.value_at(apply_update(scene, step))
            if reduction > 0:
                return step, reduction / -(length * slope + 0.5 * length**2 * bend)
        return zeros_like(scene), 0.0
