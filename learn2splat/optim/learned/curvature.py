"""`learned-rule-curvature`: the learned rule with exact curvature as one more trait of each Gaussian."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.learned.knots import hat_functions, late_share, row_of
from learn2splat.optim.learned.moments import GROUPS, by_group, scaled_by_group, trusted
from learn2splat.optim.learned.rule import INHERITED, LearnedRule
from learn2splat.optim.learned.traits import MOST, gains
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

POWER_UNIT = 0.15
"""A power of the curvature that clearly shows: it spans orders of magnitude."""
MEMORY = 0.5
"""Decay of a Gaussian's curvature from one batch that sees it to the next."""


class CurvatureTrait(torch.nn.Module):
    """The rule's steps, times a power of the curvature of each Gaussian and group relative to the average Gaussian's.

    The curvature is the mean over a group of the diagonal of the Gauss-Newton matrix J^T B J of the loss, exact, of the
    batch at hand; it is renewed every few steps and costs nothing in between. With the trait *loudness*, the root of
    the mean squared gradient, it tells Newton's step g / h from Adam's g / sqrt(v). The powers are piecewise linear in
    log(1 + t). Untrained they are 0, and the update is the rule's to the bit.

    Args:
        rule: whose steps are meant; its constants stay as they are.
        every: steps between two looks at the curvature.
    """

    def __init__(self, rule: LearnedRule, every: int = 8) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every}: give 1 or more")
        self.rule, self.every = rule.eval().requires_grad_(False), every
        self.power = torch.nn.Parameter(torch.zeros(len(GROUPS), len(rule.log_knots)))

    def train(self, mode: bool = True) -> CurvatureTrait:
        """The rule stays in evaluation mode: it is not trained here."""
        super().train(mode)
        self.rule.eval()
        return self

    @property
    def needs(self) -> frozenset[Need]:
        return self.rule.needs | {Need.LOSS_MODEL}

    def perturbed(self, generator: torch.Generator) -> CurvatureTrait:
        """A copy on a perturbed rule."""
        other = copy.deepcopy(self).eval()
        other.rule = self.rule.perturbed(generator).requires_grad_(False)
        return other

    def coarse(self, train_views: int) -> list[dict[str, Tensor]]:
        """Shifts of the power of one group, early or late."""
        late = late_share(self.rule.log_knots)
        spans = ([POWER_UNIT * (1 - share) for share in late], [POWER_UNIT * share for share in late])
        return [{"power": row_of(self.power, row, span)} for row in range(len(GROUPS)) for span in spans]

    def init(self, scene: GaussianScene) -> OptimizerState:
        state = self.rule.init(scene)
        return OptimizerState({**state.rows, "curvature": scene.means.new_zeros(len(scene), len(GROUPS))}, state.shared)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        with torch.no_grad():
            update, new = self.rule.update(grads, state, scene, context)
        curvature = state.rows["curvature"]
        if context.step % self.every == 0:
            if context.model is None:
                raise ValueError("the trait of curvature needs StepContext.model")
            curvature = remembered(curvature, by_group(context.model.diagonal(), squared=True))
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            powers = trusted(
                self.power @ hat_functions(context.step, self.rule.log_knots).to(self.power), context.trust
            )
            scaled = scaled_by_group(update, gains([stiffness(curvature)], powers.to(curvature)[None]))
        return scaled, OptimizerState({**new.rows, "curvature": curvature}, new.shared)

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage, (*INHERITED, "curvature"))


def remembered(old: Tensor, newest: Tensor) -> Tensor:
    """[N, groups] running curvature after the ``newest`` look; zeros say that nothing was seen."""
    return torch.where(newest > 0, torch.where(old > 0, old.lerp(newest, 1 - MEMORY), newest), old)


def stiffness(curvature: Tensor) -> Tensor:
    """[N, groups] logarithm of the curvature relative to the average Gaussian that has one; 0 for the others."""
    known = curvature > 0
    logarithm = torch.where(known, curvature, 1.0).log()
    mean = logarithm.sum(dim=0) / known.sum(dim=0).clamp_min(1)
    return torch.where(known, (logarithm - mean).clamp(-MOST, MOST), 0.0)
