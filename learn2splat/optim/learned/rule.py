"""`learned-rule`: one meta-learned constant per parameter group and direction, over log-spaced steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from learn2splat import native
from learn2splat.native.rule import MOMENTS, Bounds, RuleParameter, rule_gains, rule_step
from learn2splat.networks.chunks import by_chunks
from learn2splat.optim import ages
from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.fusing import compiled, pays
from learn2splat.optim.learned.knots import hat_functions, late_share, log_positions, ramp, row_of
from learn2splat.optim.learned.moments import (
    DIRECTIONS,
    GROUPS,
    LEAN_GROUP,
    LEAN_WITHOUT,
    MomentDecays,
    advance,
    as_matrix,
    by_group,
    columns_of,
    group_of_column,
    group_slices,
    join_groups,
    kept,
    mixture,
    split_groups,
    trusted,
)
from learn2splat.optim.learned.traits import MOST, MOST_GAIN, TRAITS, VISIBILITY_MEMORY, gains, traits
from learn2splat.optim.learned.traits import TINY as TINY_TRAIT
from learn2splat.optim.rates import GroupRates, PowerDecay, Schedule
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

MAX_LOG_STEP = 2.5
"""A group's step stays within exp(+-2.5) of the base."""
PERSISTENCE_MEMORY = 0.9
"""Decay per step of the inner products that persistence is made of."""
TINY = 1e-60
CHUNK = 2**17
"""Rows of a step in torch at once: few enough to need little memory beside the state, enough to keep a GPU busy."""
INHERITED = ("visibility",)
"""State rows that the newborn inherit: who is born beside a Gaussian is seen as often."""
TRAIT_UNITS = {"size": 0.3, "loudness": 0.2, "visibility": 0.3}
"""Powers of traits that clearly show."""
BOUNDS = Bounds(MOST, math.log(MOST_GAIN), TINY_TRAIT)
LARGEST = 2.0
"""Standard deviation of a Gaussian on the screen, in sides of a photo, beyond which it does not grow."""
OPPOSED = 0.8
"""Negative weights may take away this share of what the base and the positive weights add, so that it stays descent."""


@dataclass(frozen=True)
class StepConstants:
    """What the rule does at one step, per group of `GROUPS`.

    Args:
        factor: [groups], 1 for the base optimizer.
        weights: [directions, groups], 0 for the base optimizer.
        powers: [traits, groups] powers of the traits of each Gaussian in its steps, 0 for the base optimizer.
    """

    factor: Tensor
    weights: Tensor
    powers: Tensor


class LearnedRule(torch.nn.Module):
    """Steps along a learned mixture of momentum and preconditioner directions.

    The update of parameter p in group g is ``-rate_g(t) e^{s_g} (b + sum_j w_gj b_j)``, with b the base direction
    (m + damping g) / sqrt(v), b_j those of `DIRECTIONS`, and s, w piecewise linear in log(1 + t). s is so in the
    logarithm of the number of training views, too, and has a part proportional to the group's persistence: the running
    correlation of the newest gradient with the momentum, which is low where batches disagree or steps are too long.
    Steps of a Gaussian are multiplied by powers of its `TRAITS`, each relative to the average Gaussian's: a step of a
    large one, say, changes more of a picture. The powers are piecewise linear in log(1 + t).
    With all constants zero it is Adam with ``rates``, ``schedule`` and ``damping``. No step lets a Gaussian grow
    beyond `LARGEST` photos. In training mode updates are
    differentiable in the constants. The state takes 632 bytes per Gaussian at SH 3, 1.3 times as many as Adam's.

    Args:
        rates: base step sizes.
        schedule: factor on the base rates over the run.
        knots: steps between which the constants are interpolated; constant before the first and after the last.
        views: numbers of training views between which the step sizes are interpolated, likewise: few views over-fit.
        decays: of the moments.
        damping: weight of the newest gradient in the base direction.
    """

    def __init__(
        self,
        rates: GroupRates = GroupRates(means=0.011, means_unit="footprint"),
        schedule: Schedule = PowerDecay(),
        knots: Sequence[int] = (0, 10, 50, 200, 1000, 5000),
        views: Sequence[int] = (3, 8, 24),
        decays: MomentDecays = MomentDecays(),
        damping: float = 0.0,
    ) -> None:
        super().__init__()
        self.rates, self.schedule, self.decays, self.damping = rates, schedule, decays, damping
        self.log_knots = log_positions(knots)
        self.log_views = log_positions(views)
        self.log_step = torch.nn.Parameter(torch.zeros(len(GROUPS), len(views), len(knots)))
        self.weight = torch.nn.Parameter(torch.zeros(len(GROUPS), len(DIRECTIONS), len(knots)))
        self.feedback = torch.nn.Parameter(torch.zeros(len(GROUPS), len(knots)))
        self.power = torch.nn.Parameter(torch.zeros(len(GROUPS), len(TRAITS), len(knots)))
        self.has_direction: Tensor  # [groups, directions] 1 or 0
        has = [[group != LEAN_GROUP or name not in LEAN_WITHOUT for name in DIRECTIONS] for group in GROUPS]
        self.register_buffer("has_direction", torch.tensor(has, dtype=torch.float32), persistent=False)

    @property
    def needs(self) -> frozenset[Need]:
        return self.rates.needs | {Need.PIXEL_FOOTPRINT, Need.TRUST}

    def constants(self, context: StepContext, persistence: Tensor | None = None) -> StepConstants:
        """The constants at this step; differentiable in the module's parameters.

        Args:
            context: gives the step and the number of training views.
            persistence: [groups] running correlations, -1..1; zero when not given.
        """
        hats = hat_functions(context.step, self.log_knots).to(self.log_step)
        log_step = hat_functions(context.train_views, self.log_views).to(hats) @ (self.log_step @ hats).T
        if persistence is not None:
            log_step = log_step + (self.feedback @ hats) * persistence.to(log_step)
        weight = trusted(_descent((self.weight @ hats) * self.has_direction), context.trust)
        powers = trusted((self.power @ hats).T, context.trust)
        return StepConstants(step_factors(log_step, context.trust), weight.T, powers)

    def perturbed(self, generator: torch.Generator) -> LearnedRule:
        """A copy whose steps are larger or smaller: all of them by up to e^1, each group by some more."""
        other = copy.deepcopy(self).eval()
        with torch.no_grad():
            other.log_step.add_(random_shift(generator).to(other.log_step)[:, None])
        return other

    def coarse(self, train_views: int) -> list[dict[str, Tensor]]:
        """Shifts of the constants of one group over some span of log-time, of a size that clearly shows."""
        late = late_share(self.log_knots)
        early = [1 - share for share in ramp(self.log_knots, 10, 100)]
        whole = [1.0] * len(late)
        in_use = hat_functions(train_views, self.log_views).nonzero().flatten().tolist()
        spans = [(span, knot) for knot in in_use for span in (early, whole, late)]
        found = [
            {"log_step": row_of(self.log_step, (row, knot), [0.25 * share for share in span])}
            for row in range(len(GROUPS))
            for span, knot in spans
        ]
        found += [
            {"power": row_of(self.power, (row, column), [unit * share for share in span])}
            for row, group in enumerate(GROUPS)
            for column, unit in enumerate(TRAIT_UNITS[trait] for trait in TRAITS)
            for span in ((early, late) if group == "log_scales" else (whole,))
        ]
        found += [{"feedback": row_of(self.feedback, row, [0.5] * len(late))} for row in range(len(GROUPS))]
        found += [
            {"weight": row_of(self.weight, (row, column), [0.15] * len(late))}
            for row, column in self.has_direction.nonzero().tolist()
        ]
        return found

    def init(self, scene: GaussianScene) -> OptimizerState:
        zeros = scene.map(torch.zeros_like)
        rows: dict[str, Tensor] = {}
        for moment in MOMENTS:
            rows |= {f"{moment}.{name}": kept(moment, name, tensor).clone() for name, tensor in zeros.items()}
        rows |= split_groups("squares", scene.means.new_zeros(len(scene), len(GROUPS)))
        rows["visibility"] = scene.means.new_zeros(len(scene))
        products = torch.zeros(len(GROUPS), 3, dtype=torch.float64, device=scene.means.device)
        return OptimizerState(rows | ages.newborn(scene), {"products": products})

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        across, squared, squared_m = state.shared["products"].T
        learning = self.training and torch.is_grad_enabled()
        fused = not learning and native.library() is not None and scene.means.device.type == "cpu"
        fused = fused and scene.means.dtype == torch.float32
        with torch.set_grad_enabled(learning):
            constants = self.constants(context, across / (squared * squared_m).sqrt().clamp_min(TINY))
            rates = base_rates(self.rates, self.schedule, scene, context)
            age = ages.older(state, scene)
            parameters = _parameters(grads, state.rows, age) if fused else []
            given = Given(grads, state.rows, age, scene, context, rates, constants, parameters)
            step = LearnedRule._step
            if not learning and pays(scene.means.device, context.horizon):
                step = compiled(step)
            update, rows, products = step(self, given)
        products = state.shared["products"].lerp(products, 1 - PERSISTENCE_MEMORY)
        return update, OptimizerState(rows | ages.as_rows(age), {"products": products})

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage, INHERITED)

    def _step(self, given: Given) -> tuple[GaussianScene, dict[str, Tensor], Tensor]:
        """The update, the new rows of the state but for ages, and `inner_products`."""
        squares, visibility, gains = self.gains(given)
        step = self._native if given.parameters else self._plain
        update, moments, products = step(given, squares, gains)
        update = replace(update, log_scales=within_sight(update.log_scales, given.scene, given.context))
        return update, moments | split_groups("squares", squares) | {"visibility": visibility}, products

    def gains(self, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        """What differs from Gaussian to Gaussian in its steps.

        Returns:
            [N, groups] mean second moment of each group and [N] visibility, both after the newest gradient, and
            [groups, N] factors on the steps.
        """
        context, powers, decay = given.context, given.constants.powers, self.decays.v
        assert context.pixel_footprint_world is not None
        if given.parameters:
            correct_v = ages.corrections(decay, 1.0, torch.float32, powers.device)
            return rule_gains(
                given.parameters,
                given.scene.log_scales,
                context.pixel_footprint_world,
                given.rows["visibility"],
                context.visible,
                powers,
                (decay, VISIBILITY_MEMORY),
                correct_v,
                BOUNDS,
            )
        squares = join_groups("squares", given.rows).lerp(by_group(given.grads), 1 - decay)
        visibility = given.rows["visibility"].lerp(context.visible.to(squares), 1 - VISIBILITY_MEMORY)
        found = traits(given.scene, squares, visibility, given.age, context.pixel_footprint_world, decay)
        return squares, visibility, gains(found, powers.to(squares)).T

    def _plain(self, given: Given, squares: Tensor, gains: Tensor) -> tuple[GaussianScene, dict[str, Tensor], Tensor]:
        """The update, the new moments and `inner_products`, in torch on any device and in any precision."""
        grads, constants = given.grads, given.constants
        updates: list[Tensor] = []
        products: list[Tensor] = []
        rows: dict[str, Tensor] = {}
        for name, grad in grads.items():
            moments = advance({moment: given.rows[f"{moment}.{name}"] for moment in MOMENTS}, name, grad, self.decays)
            rows |= {f"{moment}.{name}": tensor for moment, tensor in moments.items()}
            products += inner_products(grad, given.rows[f"m.{name}"], group_slices(name, grads.sh.shape[1]))
            width = math.prod(grad.shape[1:])
            factor, weights = (
                columns_of(name, values.to(grad), width) for values in (constants.factor[None], constants.weights)
            )
            rate = (given.rates[name] * factor).expand(len(grad), -1)
            step = partial(mixture, parameter=name, weights=weights, decays=self.decays, damping=self.damping)
            of_rows = (grad, *moments.values(), given.age[name], squares, gains.T, rate)
            update = step(*of_rows) if torch.compiler.is_compiling() else by_chunks(step, *of_rows, chunk=CHUNK)
            updates.append(update.view_as(grad))
        return GaussianScene(*updates), rows, torch.stack(products)

    def _native(self, given: Given, squares: Tensor, gains: Tensor) -> tuple[GaussianScene, dict[str, Tensor], Tensor]:
        """The same in the compiled library."""
        rates = []
        for parameter, rate in zip(given.parameters, given.rates.values(), strict=True):
            if rate.shape[0] != 1:  # one per Gaussian
                gains[parameter.first_group] *= rate[:, 0]
                rate = torch.ones(1, 1)
            rates.append(rate.expand(1, parameter.width))
        constants = torch.cat([given.constants.factor[None], given.constants.weights]).float()
        columns = constants[:, group_of_column(given.grads.sh.shape[1], constants.device)]
        columns[0] *= torch.cat(rates, dim=1)[0]
        device, decays = columns.device, vars(self.decays)
        corrections = [
            ages.corrections(decays[moment], 0.5 if moment.startswith("v") else 1.0, torch.float32, device)
            for moment in MOMENTS
        ]
        updates, moments, products = rule_step(
            given.parameters, columns, squares, gains, decays, self.damping, corrections
        )
        rows = {
            f"{moment}.{name}": tensor
            for (name, _), new in zip(given.grads.items(), moments, strict=True)
            for moment, tensor in zip(MOMENTS, new, strict=True)
        }
        return GaussianScene(*updates), rows, products


@dataclass(frozen=True)
class Given:
    """What a step is made of: gradients, old rows of the state, ages, where and when, base rates, constants; and the
    parameters as the compiled library wants them, or none where torch makes the step."""

    grads: GaussianScene
    rows: Mapping[str, Tensor]
    age: Mapping[str, Tensor]
    scene: GaussianScene
    context: StepContext
    rates: Mapping[str, Tensor]
    constants: StepConstants
    parameters: Sequence[RuleParameter]


def _parameters(grads: GaussianScene, rows: Mapping[str, Tensor], age: Mapping[str, Tensor]) -> list[RuleParameter]:
    """Each parameter as the compiled library wants it."""
    found: list[RuleParameter] = []
    first = 0
    for name, grad in grads.items():
        slices = group_slices(name, grads.sh.shape[1]).values()
        width = math.prod(grad.shape[1:])
        moments = [rows[f"{moment}.{name}"] for moment in MOMENTS]
        ends = [columns.stop or width for columns in slices]
        found.append(RuleParameter(grad, moments, rows[f"squares.{name}"], age[name], first, ends))
        first += len(slices)
    return found


def within_sight(grows: Tensor, scene: GaussianScene, context: StepContext) -> Tensor:
    """``grows`` [N, 3], an update of the log-scales, without growth beyond `LARGEST` photos.

    How large such a Gaussian is no photo tells, and few views let it grow until it hides what others see.
    """
    if context.photo_side_px is None or context.pixel_footprint_world is None:
        return grows
    largest = (LARGEST * context.photo_side_px * context.pixel_footprint_world.to(grows)).log()
    return torch.minimum(grows, (largest[:, None] - scene.log_scales).clamp_min(0))


def inner_products(grad: Tensor, momentum: Tensor, groups: Mapping[str, slice]) -> list[Tensor]:
    """For each group [3] float64: <g, m>, <g, g> and <m, m> over all its numbers."""
    g, m = as_matrix(grad).detach(), as_matrix(momentum).detach()
    columns = torch.stack([(g * m).sum(dim=0), (g * g).sum(dim=0), (m * m).sum(dim=0)]).double()
    return [columns[:, part].sum(dim=1) for part in groups.values()]


def _descent(weight: Tensor) -> Tensor:
    """[groups, directions] with negative weights shrunk where they would turn the mixture against the base."""
    added, taken = 1 + weight.clamp_min(0).sum(dim=1), (-weight).clamp_min(0).sum(dim=1)
    shrink = (OPPOSED * added / taken.clamp_min(1e-12)).clamp_max(1)[:, None]
    return torch.where(weight < 0, weight * shrink, weight)


def step_factors(log_step: Tensor, trust: float = 1.0) -> Tensor:
    """[groups] factors on base rates, from a logarithm kept within +-MAX_LOG_STEP, times ``trust``."""
    return trusted(MAX_LOG_STEP * torch.tanh(log_step / MAX_LOG_STEP), trust).exp()


def random_shift(generator: torch.Generator) -> Tensor:
    """[groups, 1] logarithms of factors that perturb a rule: up to e^1 for all, and some more for each group."""
    shift = 2 * torch.rand((), generator=generator) - 1
    return shift + 0.4 * torch.randn(len(GROUPS), 1, generator=generator)


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
