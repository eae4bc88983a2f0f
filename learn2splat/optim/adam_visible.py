"""Adam for the Gaussians that a batch sees."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.optim.adam import Adam
from learn2splat.optim.base import OptimizerState, StepContext, as_rows, zeros_like
from learn2splat.optim.rates import step_sizes
from learn2splat.scene.gaussians import GaussianScene


class AdamVisible(Adam):
    """Adam that updates a Gaussian, and its moments, only in steps in which it was drawn.

    This is the sparse Adam of Taming 3DGS (Mallick et al. 2024) and gsplat's `SelectiveAdam`, but with the bias
    correction that those leave out: every Gaussian counts its own steps, so that one that is first seen late begins
    as gently as all others. With every Gaussian visible in every step it is `Adam`.
    """

    def init(self, scene: GaussianScene) -> OptimizerState:
        zeros = zeros_like(scene)
        count = torch.zeros(len(scene), dtype=torch.int64, device=scene.means.device)
        return OptimizerState(as_rows("m", zeros) | as_rows("v", zeros) | {"count": count})

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        rates = step_sizes(self.rates, self.schedule, scene, context)
        seen, count = context.visible.double(), state.rows["count"] + context.visible
        steps = count.clamp_min(1)  # one that was never seen must have finite corrections, too
        correct_m, correct_v = 1 / (1 - self.beta1 ** steps.double()), (1 - self.beta2 ** steps.double()) ** -0.5
        rows, updates = {"count": count}, []
        for name, grad in grads.items():
            # weight 0 leaves the moments of an unseen Gaussian as they are, to the bit
            m = state.rows[f"m.{name}"].lerp(grad, _column((1 - self.beta1) * seen, grad))
            decayed = state.rows[f"v.{name}"] * _column(self.beta2**seen, grad)
            v = decayed.addcmul_(grad * _column((1 - self.beta2) * seen, grad), grad)
            direction = (m * _column(correct_m, grad)).add_(grad, alpha=self.damping)
            direction.div_(v.sqrt().mul_(_column(correct_v, grad)).add_(self.eps))
            updates.append(direction.mul_(-rates[name] * _column(seen, grad)))
            rows |= {f"m.{name}": m, f"v.{name}": v}
        return GaussianScene(*updates), OptimizerState(rows)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Numbers [N] so that they broadcast against ``like`` [N, ...], in its precision."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
