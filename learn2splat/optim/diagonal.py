"""Descent in the exact diagonal of the curvature, within a trust region per parameter."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from learn2splat.optim import ages
from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows, from_rows, zeros_like
from learn2splat.optim.rates import GroupRates, PositionDecay, Schedule, step_sizes
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

LEAST_CURVATURE = 1e-12
"""Added to the curvature, so that a parameter that no picture depends on has the step 0 / positive."""


class DiagonalCurvature:
    """-m / h, no longer than a rate: m averages gradients, h the diagonal of the Gauss-Newton matrix J^T B J.

    After 3DGS2-TR (arXiv 2602.00395), which estimates a diagonal of the Hessian by random signs and bounds the change
    of each Gaussian; here the renderer gives the diagonal exactly where it can, and the bound is one per parameter. The
    diagonal overrates steps wherever Gaussians overlap, since what several of them would correct each corrects alone:
    hence the bound, and ``share``.

    Args:
        rates: the longest step per group.
        schedule: factor on the longest steps over the run.
        residuals: "squared": squared errors; "photometric": the loss that is scored.
        share: of the step -m / h that is taken.
        beta1, beta2: decay of m and h per step, in [0, 1).
    """

    def __init__(
        self,
        rates: GroupRates = GroupRates(),
        schedule: Schedule = PositionDecay(),
        residuals: Literal["photometric", "squared"] = "photometric",
        share: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.99,
    ) -> None:
        if residuals not in ("photometric", "squared"):
            raise ValueError(f"residuals is {residuals!r}; it must be 'photometric' or 'squared'")
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
        if not share > 0:
            raise ValueError(f"share is {share}; it must be positive")
        self.rates, self.schedule, self.residuals = rates, schedule, residuals
        self.share, self.beta1, self.beta2 = share, beta1, beta2

    @property
    def needs(self) -> frozenset[Need]:
        return self.rates.needs | {Need.LOSS_MODEL if self.residuals == "photometric" else Need.SQUARED_ERROR_MODEL}

    def init(self, scene: GaussianScene) -> OptimizerState:
        zeros = zeros_like(scene)
        return OptimizerState(as_rows("m", zeros) | as_rows("h", zeros) | ages.newborn(scene))

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        model = context.model
        if model is None:
            raise ValueError("descent in the curvature needs StepContext.model")
        if self.residuals == "squared":
            grads = model.gradient
        age = ages.older(state, scene)
        longest = step_sizes(self.rates, self.schedule, scene, context)
        m = from_rows("m", state).map(lambda old, new: old.lerp(new, 1 - self.beta1), grads)
        h = from_rows("h", state).map(lambda old, new: old.lerp(new, 1 - self.beta2), model.diagonal())

        def step(name: str, first: Tensor, curvature: Tensor) -> Tensor:
            correct_m = ages.correction(self.beta1, 1.0, age[name], first.dtype)
            correct_h = ages.correction(self.beta2, 1.0, age[name], first.dtype)
            way = -self.share * first * correct_m / (curvature * correct_h + LEAST_CURVATURE)
            return torch.clamp(way, -longest[name], longest[name])

        columns = zip(m.items(), h.tensors(), strict=True)
        update = GaussianScene(*(step(name, first, curvature) for (name, first), curvature in columns))
        return update, OptimizerState(as_rows("m", m) | as_rows("h", h) | ages.as_rows(age))

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)
