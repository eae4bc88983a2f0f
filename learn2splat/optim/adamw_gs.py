"""Adam for visible Gaussians, with a decay of opacities and sizes that does not pass through the moments."""

from __future__ import annotations

from dataclasses import replace

import torch

from learn2splat.optim.adam_visible import AdamVisible
from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.rates import step_sizes
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage


class AdamWGS:
    """Sparse Adam with decoupled decay of attributes, in the spirit of AdamW-GS (arXiv 2601.16736).

    As in AdamW (Loshchilov & Hutter 2019) the decay is a step of its own: it is no part of the gradient, so the second
    moment does not rescale it. What decays are the attributes that 3DGS-MCMC (Kheradmand et al. 2024) regularises,
    opacity o and sizes s, not the raw parameters: ``o <- o exp(-rate_o opacity_decay)`` and likewise for s, for every
    Gaussian that was drawn, with ``rate`` the step size of its group at this step. The paper's rescaling of
    moments ("re-state regularisation") is not part of it.

    Args:
        adam: makes the update that the decay is added to.
        opacity_decay, scale_decay: per unit of step size; 0 leaves the attribute alone.
    """

    def __init__(self, adam: AdamVisible, opacity_decay: float = 0.01, scale_decay: float = 0.1) -> None:
        for name, value in (("opacity_decay", opacity_decay), ("scale_decay", scale_decay)):
            if not value >= 0.0:
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        self.adam, self.opacity_decay, self.scale_decay = adam, opacity_decay, scale_decay

    @property
    def needs(self) -> frozenset[Need]:
        return self.adam.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        return self.adam.init(scene)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        update, state = self.adam.update(grads, state, scene, context)
        rates = step_sizes(self.adam.rates, self.adam.schedule, scene, context)
        seen = context.visible.to(scene.means)
        shrink = self.opacity_decay * rates["logit_opacities"] * seen
        # the logit of e^-shrink sigmoid(x) is x - shrink - log(1 + (1 - e^-shrink) e^x)
        excess = torch.logaddexp(torch.zeros_like(shrink), scene.logit_opacities + torch.log(-torch.expm1(-shrink)))
        decayed = replace(
            update,
            logit_opacities=update.logit_opacities - shrink - excess,
            log_scales=update.log_scales - self.scale_decay * rates["log_scales"] * seen[:, None],
        )
        return decayed, state

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return self.adam.reindex(state, lineage)
