"""`learned-schedule`: one meta-learned step size per parameter group, over log-spaced steps, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from learn2splat.optim.adam import Adam
from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.learned.knots import hat_functions, log_positions
from learn2splat.optim.learned.moments import GROUPS, as_matrix, columns_of
from learn2splat.optim.learned.rule import random_shift, step_factors
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage


class LearnedSchedule(torch.nn.Module):
    """Adam with a learned schedule: the smallest learned optimizer, and what larger ones have to beat.

    The update of group g is Adam's times e^{s_g(t)}, with s_g piecewise linear in log(1 + t) and within +-2.5. It sees
    the number of steps only: neither the scene nor the number of views. Untrained it is ``adam`` to the bit. In
    training mode updates are differentiable in s.

    Args:
        adam: whose steps are scaled.
        knots: steps between which s is interpolated; constant before the first and after the last.
    """

    def __init__(self, adam: Adam, knots: Sequence[int] = (0, 10, 50, 200, 1000, 5000)) -> None:
        super().__init__()
        self.adam, self.log_knots = adam, log_positions(knots)
        self.log_step = torch.nn.Parameter(torch.zeros(len(GROUPS), len(knots)))

    @property
    def needs(self) -> frozenset[Need]:
        return self.adam.needs

    def perturbed(self, generator: torch.Generator) -> LearnedSchedule:
        """A copy whose steps are larger or smaller."""
        other = copy.deepcopy(self).eval()
        with torch.no_grad():
            other.log_step.add_(random_shift(generator))
        return other

    def init(self, scene: GaussianScene) -> OptimizerState:
        return self.adam.init(scene)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        with torch.no_grad():
            update, state = self.adam.update(grads, state, scene, context)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            log_step = self.log_step @ hat_functions(context.step, self.log_knots).to(self.log_step)
            factors = step_factors(log_step)[None].to(scene.means)
            flat = {name: as_matrix(tensor) for name, tensor in update.items()}
            scaled = [
                (m * columns_of(name, factors, m.shape[1])).view_as(getattr(update, name)) for name, m in flat.items()
            ]
        return GaussianScene(*scaled), state

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return self.adam.reindex(state, lineage)
