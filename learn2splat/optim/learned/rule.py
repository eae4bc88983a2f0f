"""`learned-rule`: one meta-learned constant per parameter group and direction, over log-spaced steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat import native
from learn2splat.native.rule import MOMENTS, RuleParameter, rule_step
from learn2splat.optim import ages
from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows
from learn2splat.optim.learned.moments import (
    DIRECTIONS,
    GROUPS,
    MomentDecays,
    advance,
    as_columns,
    directions,
    group_slices,
)
from learn2splat.optim.rates import GroupRates, PowerDecay, Schedule
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

USUAL_VIEWS = 24.0
"""Number of training views at which the dependence on it vanishes."""
MAX_LOG_STEP = 2.5
"""A group's step stays within exp(+-2.5) of the base."""
OPPOSED = 0.8
"""Negative weights may take away this share of what the base and the positive weights add, so that it stays descent."""


@dataclass(frozen=True)
class StepConstants:
    """What the rule does at one step: per group, a factor on the base rate and weights of `DIRECTIONS`.

    Args:
        factor: group -> scalar tensor, 1 for the base optimizer.
        weights: direction -> group -> scalar tensor, 0 for the base optimizer.
    """

    factor: dict[str, Tensor]
    weights: dict[str, dict[str, Tensor]]


class LearnedRule(torch.nn.Module):
    """Steps along a learned mixture of momentum and preconditioner directions.

    The update of parameter p in group g is ``-rate_g(t) e^{s_g} (b + sum_j w_gj b_j)``, with b the base direction
    (m + damping g) / sqrt(v), b_j those of `DIRECTIONS`, and s, w piecewise linear in log(1 + t); s has a part
    proportional to the logarithm of the number of training views besides. With all constants zero it is Adam with
    ``rates``, ``schedule`` and ``damping``. In training mode updates are differentiable in the constants.

    Args:
        rates: base step sizes.
        schedule: factor on the base rates over the run.
        knots: steps between which the constants are interpolated; constant before the first and after the last.
        decays: of the moments.
        damping: weight of the newest gradient in the base direction.
    """

    def __init__(
        self,
        rates: GroupRates = GroupRates(means=0.011, means_unit="footprint"),
        schedule: Schedule = PowerDecay(),
        knots: Sequence[int] = (0, 10, 50, 200, 1000, 5000),
        decays: MomentDecays = MomentDecays(),
        damping: float = 0.0,
    ) -> None:
        super().__init__()
        if list(knots) != sorted(set(knots)) or not len(knots):
            raise ValueError(f"knots={list(knots)}: give ascending steps")
        self.rates, self.schedule, self.decays, self.damping = rates, schedule, decays, damping
        self.log_knots = [math.log1p(step) for step in knots]
        self.log_step = torch.nn.Parameter(torch.zeros(len(GROUPS), 2 * len(knots)))
        self.weight = torch.nn.Parameter(torch.zeros(len(GROUPS), len(DIRECTIONS), len(knots)))

    @property
    def needs(self) -> frozenset[Need]:
        return self.rates.needs | {Need.NEIGHBOURS}

    def constants(self, context: StepContext) -> StepConstants:
        """The constants at this step; differentiable in the module's parameters."""
        hats = self._hats(context.step).to(self.log_step)
        views = max(-2.5, min(1.5, math.log(context.train_views / USUAL_VIEWS)))
        log_step = self.log_step @ torch.cat([hats, views * hats])
        log_step = MAX_LOG_STEP * torch.tanh(log_step / MAX_LOG_STEP)
        weight = _descent(self.weight @ hats)
        factor = dict(zip(GROUPS, log_step.exp(), strict=True))
        weights = {
            name: dict(zip(GROUPS, column, strict=True)) for name, column in zip(DIRECTIONS, weight.T, strict=True)
        }
        return StepConstants(factor, weights)

    def _hats(self, step: int) -> Tensor:
        """[knots] hat functions of log(1 + t)."""
        position, knots = math.log1p(step), self.log_knots
        hats = torch.zeros(len(knots), dtype=torch.float64)
        above = next((i for i, knot in enumerate(knots) if knot >= position), len(knots) - 1)
        below = max(above - 1, 0) if position <= knots[above] else above
        share = 1.0 if above == below else (position - knots[below]) / (knots[above] - knots[below])
        hats[below] += 1 - share
        hats[above] += share
        return hats

    def perturbed(self, generator: torch.Generator) -> LearnedRule:
        """A copy whose steps are larger or smaller: all of them by up to e^1, each group by some more."""
        other = copy.deepcopy(self).eval()
        hats = len(self.log_knots)
        with torch.no_grad():
            shift = 2 * torch.rand((), generator=generator) - 1
            other.log_step[:, :hats] += shift + 0.4 * torch.randn(len(GROUPS), 1, generator=generator)
        return other

    def coarse(self) -> dict[str, dict[str, Tensor]]:
        """Shifts of a group's step as a whole, of its late part, and of their dependence on the number of views."""
        hats = len(self.log_knots)
        ramp = [(knot - math.log(50)) / math.log(20) for knot in self.log_knots]
        late = [min(1.0, max(0.0, share)) for share in ramp]  # none up to 50 steps, all of it from 1,000
        shapes = {"step": [1.0] * hats, "late": late}
        none = [0.0] * hats
        found = {}
        for views in (False, True):
            for kind, shape in shapes.items():
                for row, group in enumerate(GROUPS):
                    shift = torch.zeros_like(self.log_step, requires_grad=False)
                    shift[row] = torch.tensor(none + shape if views else shape + none)
                    found[f"{group} {kind}{' by views' if views else ''}"] = {"log_step": shift}
        return found

    def init(self, scene: GaussianScene) -> OptimizerState:
        zeros = scene.map(torch.zeros_like)
        rows: dict[str, Tensor] = {}
        for moment in MOMENTS:
            rows |= as_rows(moment, zeros)
        return OptimizerState(rows | ages.newborn(scene))

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        if context.neighbours is None:
            raise ValueError("LearnedRule needs StepContext.neighbours")
        age = ages.older(state, scene)
        rates = base_rates(self.rates, self.schedule, scene, context)
        if self.training and torch.is_grad_enabled():
            update, rows = self._plain(grads, state, age, context.neighbours, rates, self.constants(context))
        else:
            with torch.no_grad():
                fused = native.library() is not None and scene.means.device.type == "cpu"
                step = self._fused if fused and scene.means.dtype == torch.float32 else self._plain
                update, rows = step(grads, state, age, context.neighbours, rates, self.constants(context))
        return update, OptimizerState(rows | ages.as_rows(age))

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)

    def _plain(
        self,
        grads: GaussianScene,
        state: OptimizerState,
        age: Mapping[str, Tensor],
        neighbours: Tensor,
        rates: Mapping[str, Tensor],
        constants: StepConstants,
    ) -> tuple[GaussianScene, dict[str, Tensor]]:
        """The update and the new moments, in torch on any device and in any precision."""
        factor = as_columns(constants.factor, grads)
        weights = {name: as_columns(values, grads) for name, values in constants.weights.items()}
        updates: list[Tensor] = []
        rows: dict[str, Tensor] = {}
        for name, grad in grads.items():
            moments = advance({moment: state.rows[f"{moment}.{name}"] for moment in MOMENTS}, grad, self.decays)
            rows |= {f"{moment}.{name}": tensor for moment, tensor in moments.items()}
            groups = group_slices(name, grads.sh.shape[1])
            base, others = directions(moments, grad, age[name], neighbours, groups, self.decays, self.damping)
            mixed = base + sum(weights[j][name].to(grad) * direction for j, direction in others.items())
            rate = rates[name] * factor[name].to(grad)
            updates.append((-rate * mixed).view_as(grad))
        return GaussianScene(*updates), rows

    def _fused(
        self,
        grads: GaussianScene,
        state: OptimizerState,
        age: Mapping[str, Tensor],
        neighbours: Tensor,
        rates: Mapping[str, Tensor],
        constants: StepConstants,
    ) -> tuple[GaussianScene, dict[str, Tensor]]:
        """The same in the compiled library."""
        factor = as_columns(constants.factor, grads)
        weights = {name: as_columns(values, grads) for name, values in constants.weights.items()}
        parameters = []
        for name, grad in grads.items():
            moments = [state.rows[f"{moment}.{name}"] for moment in MOMENTS]
            of_parameter = torch.cat([weights[j][name] for j in DIRECTIONS])
            width = math.prod(grad.shape[1:])
            group_ends = [columns.stop or width for columns in group_slices(name, grads.sh.shape[1]).values()]
            per_row = rates[name].shape[0] > 1
            parameters.append(
                RuleParameter(
                    grad,
                    moments,
                    age[name],
                    rates[name] if per_row else None,
                    factor[name] if per_row else rates[name] * factor[name],
                    of_parameter,
                    group_ends,
                )
            )
        device, decays = grads.means.device, vars(self.decays)
        corrections = [
            ages.corrections(decays[moment], 0.5 if moment.startswith("v") else 1.0, torch.float32, device)
            for moment in MOMENTS
        ]
        results = rule_step(parameters, neighbours, decays, self.damping, corrections)
        rows = {
            f"{moment}.{name}": tensor
            for (name, _), (_, moments) in zip(grads.items(), results, strict=True)
            for moment, tensor in zip(MOMENTS, moments, strict=True)
        }
        return GaussianScene(*(update for update, _ in results)), rows


def _descent(weight: Tensor) -> Tensor:
    """[groups, directions] with negative weights shrunk where they would turn the mixture against the base."""
    added, taken = 1 + weight.clamp_min(0).sum(dim=1), (-weight).clamp_min(0).sum(dim=1)
    shrink = (OPPOSED * added / taken.clamp_min(1e-12)).clamp_max(1)[:, None]
    return torch.where(weight < 0, weight * shrink, weight)


def base_rates(rates: GroupRates, schedule: Schedule, scene: GaussianScene, context: StepContext) -> dict[str, Tensor]:
    """Step sizes of the base optimizer as columns, [1, width] or [N, 1]."""
    found = {}
    for name, rate in rates.by_parameter(scene, context).items():
        rate = rate * schedule.factor(name, context)
        if name == "sh":
            found[name] = rate.expand(scene.sh.shape[1], 3).reshape(1, -1)
        else:
            found[name] = rate.reshape(1, 1) if rate.ndim == 0 else rate.reshape(-1, 1)
    return found
