"""`l2s-tiny`, `l2s-base`: a point transformer that scales the learned rule's steps per Gaussian and parameter group."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.learned.features import COUNT, Evidence, features
from learn2splat.optim.learned.knots import hat_functions, late_share, log_positions, ramp, row_of
from learn2splat.optim.learned.moments import GROUPS, by_group, scaled_by_group, trusted
from learn2splat.optim.learned.network import PointTransformer
from learn2splat.optim.learned.rule import INHERITED, LearnedRule
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.neighbours import neighbour_distances

MAX_GAIN = 2.0
"""The network scales a step by exp(+-2) at most."""
STRENGTH_UNIT = 0.3
"""A shift of the strength that clearly shows."""
OWN_ROWS = ("gain", "latent", "agreement", "seen")
"""State rows that the newborn inherit: what the network thinks of a place holds for who is born there."""
MEMORY = 0.7
"""Decay of agreement, visibility and latent state from one run of the network to the next."""


class LearnedGain(torch.nn.Module):
    """The rule's update, times a gain per Gaussian and group that a network sets every few steps.

    A gain multiplies an update that vanishes with the gradient, so the network adds no drift of its own. Untrained,
    all gains are 1 and the update is the rule's to the bit. In training mode updates are differentiable in the network
    and in its strength: a factor on the logarithm of the gains per group, piecewise linear in log(1 + t), through
    which training on whole rollouts decides where the network is to be heard.

    Args:
        rule: what the network scales; its constants stay as they are.
        every: steps between two runs of the network.
        dense_until: before this step it runs at every step: the first ones decide most.
        fades, silent: from step ``fades`` on the logarithms of the gains shrink, linearly in log(1 + t), to nothing at
            step ``silent``, from which on the network does not run: what it wins, it wins early.
        latent: numbers of latent state per Gaussian.
        width, attention, heads, pooled, blocks: of the `PointTransformer`.
    """

    def __init__(
        self,
        rule: LearnedRule,
        every: int = 4,
        dense_until: int = 16,
        fades: int = 100,
        silent: int = 1000,
        width: int = 40,
        latent: int = 8,
        attention: int = 12,
        heads: int = 2,
        pooled: int = 12,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every}: give 1 or more")
        self.rule = rule.eval().requires_grad_(False)
        self.every, self.dense_until, self.latent = every, dense_until, latent
        self.fades, self.silent = fades, silent
        self.strength = torch.nn.Parameter(torch.ones(len(GROUPS), len(rule.log_knots)))
        self.network = PointTransformer(COUNT + latent, len(GROUPS) + latent, width, attention, heads, pooled, blocks)

    def train(self, mode: bool = True) -> LearnedGain:
        """The rule stays in evaluation mode: it is not trained here."""
        super().train(mode)
        self.rule.eval()
        return self

    @property
    def needs(self) -> frozenset[Need]:
        return self.rule.needs | {Need.PIXEL_FOOTPRINT, Need.NEIGHBOURS, Need.CLUSTERS, Need.VIEW_SQUARES}

    def perturbed(self, generator: torch.Generator) -> LearnedGain:
        """A copy on a perturbed rule."""
        other = copy.deepcopy(self).eval()
        other.rule = self.rule.perturbed(generator).requires_grad_(False)
        return other

    def coarse(self, train_views: int) -> list[dict[str, Tensor]]:
        """Shifts of the strength of one group, early or late."""
        late = late_share(self.rule.log_knots)
        spans = ([STRENGTH_UNIT * (1 - share) for share in late], [STRENGTH_UNIT * share for share in late])
        return [{"strength": row_of(self.strength, row, span)} for row in range(len(GROUPS)) for span in spans]

    def init(self, scene: GaussianScene) -> OptimizerState:
        state = self.rule.init(scene)
        rows = {
            "gain": scene.means.new_zeros(len(scene), len(GROUPS)),
            "latent": scene.means.new_zeros(len(scene), self.latent),
            "agreement": scene.means.new_zeros(len(scene), 2, len(GROUPS)),
            "seen": scene.means.new_zeros(len(scene)),
        }
        losses = torch.zeros(2, dtype=torch.float64)  # first, running; 0 before the first step
        return OptimizerState({**state.rows, **rows}, {**state.shared, "losses": losses})

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        with torch.no_grad():
            update, moments = self.rule.update(grads, state, scene, context)
        if context.step >= self.silent:
            own = {name: state.rows[name] for name in OWN_ROWS}
            return update, OptimizerState({**moments.rows, **own}, {**moments.shared, "losses": state.shared["losses"]})
        first, running = state.shared["losses"].tolist()
        begins = first == 0
        first, running = (context.loss, context.loss) if begins else (first, 0.9 * running + 0.1 * context.loss)
        own = {name: state.rows[name] for name in OWN_ROWS}
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            if context.step < self.dense_until or context.step % self.every == 0:
                own = self._think(grads, own, moments, scene, context, first, running)
            (faded,) = ramp(log_positions([context.step]), self.fades, self.silent)
            strength = (1 - faded) * self.strength @ hat_functions(context.step, self.rule.log_knots).to(self.strength)
            gain = torch.exp(trusted(own["gain"] * strength.to(own["gain"]), context.trust))
            scaled = scaled_by_group(update, gain)
        shared = {**moments.shared, "losses": torch.tensor([first, running], dtype=torch.float64)}
        return scaled, OptimizerState({**moments.rows, **own}, shared)

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage, (*INHERITED, *OWN_ROWS))

    def _think(
        self,
        grads: GaussianScene,
        own: dict[str, Tensor],
        moments: OptimizerState,
        scene: GaussianScene,
        context: StepContext,
        first_loss: float,
        running_loss: float,
    ) -> dict[str, Tensor]:
        """New gains (logarithms) and latent state from a run of the network."""
        if context.clusters is None or context.neighbours is None:
            raise ValueError("LearnedGain needs StepContext.neighbours and clusters")
        with torch.no_grad():
            agreement = own["agreement"]
            if context.view_squares is not None:  # another trainer may not have them: the feature then stays 0
                squares = by_group(context.view_squares, squared=True) * context.batch_views
                newest = torch.stack([by_group(grads), squares], dim=1)
                agreement = MEMORY * agreement + (1 - MEMORY) * newest
            seen = own["seen"].lerp(context.visible.to(own["seen"]), 1 - MEMORY)
            evidence = Evidence(moments.rows, grads, agreement, seen, running_loss, first_loss)
            inputs = features(scene, evidence, context, self.rule.decays)
            distance = neighbour_distances(scene.means, context.neighbours).clamp_min(1e-20).log()
            size = scene.log_scales.mean(dim=1)
            others = size[context.neighbours.long()]
            geometry = torch.stack([distance - size[:, None], others - size[:, None]], dim=-1).clamp(-4, 4)
        inputs = torch.cat([inputs, own["latent"]], dim=1)
        outputs = self.network(inputs.float(), context.neighbours, geometry.float(), context.clusters).to(inputs)
        gain, latent = outputs.split([len(GROUPS), self.latent], dim=1)
        latent = MEMORY * own["latent"] + (1 - MEMORY) * torch.tanh(latent)
        gain = MAX_GAIN * torch.tanh(gain / MAX_GAIN)
        return {"gain": gain, "latent": latent, "agreement": agreement, "seen": seen}
