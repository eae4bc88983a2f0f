"""Adam for the Gaussians that a batch sees."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.optim import ages
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import OptimizerState, StepContext, as_rows, from_rows, zeros_like
from learn2splat.optim.rates import step_sizes
from learn2splat.scene.gaussians import GaussianScene


class AdamVisible(Adam):
    """Adam that updates a Gaussian, and its moments, only in steps in which it was drawn.

    This is the sparse Adam of Taming 3DGS (Mallick et al. 2024) and gsplat's `SelectiveAdam`, but with the bias
    correction that those leave out: every Gaussian counts its own steps, so that one that is first seen late begins
    as gently as all others. With every Gaussian visible in every step it is `Adam`.
    """

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        seen = context.visible
        age = {
            name: torch.where(per_row(seen, older), older, older - 1)
            for name, older in ages.older(state, scene).items()
        }
        old_m, old_v = from_rows("m", state), from_rows("v", state)
        rates = step_sizes(self.rates, self.schedule, scene, context)
        m, v, update = self._plain(grads, old_m, old_v, rates, age)

        def where_seen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(per_row(seen, new), new, old)

        rows = as_rows("m", m.map(where_seen, old_m)) | as_rows("v", v.map(where_seen, old_v)) | ages.as_rows(age)
        return update.map(where_seen, zeros_like(scene)), OptimizerState(rows)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Numbers [N] so that they broadcast against ``like`` [N, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))
