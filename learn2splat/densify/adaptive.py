"""Adaptive density control of 3DGS (Kerbl et al. 2023, section 5.2)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from learn2splat.densify.base import STANDARD_STEPS, Densified, DensifyContext, ScreenEvidence, Statistics
from learn2splat.densify.schedule import Refinements
from learn2splat.scene.gaussians import GaussianScene, opacities, scales
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.rotation import rotation_matrices

SPLIT_FACTOR = 1.6
"""The children of a split are smaller by this."""
CHILDREN = 2
LEAST_BETWEEN_RESETS = 500
"""A reset costs hundreds of steps to recover from: runs that are too short for several have fewer."""


class AdaptiveDensityControl:
    """Clone small and split large Gaussians whose place on the screen the loss pulls at; prune what is not seen.

    What is pulled at is judged by the gradient of the projected centre, averaged over the views that drew it since the
    last refinement. A clone is an exact copy; a split replaces its parent by two samples from it, of 1 / 1.6 its size.
    What is to die does not multiply, but for a Gaussian that is too large and pulled at: it is split. At the cap those
    that are pulled at most multiply. Between refinements all opacities are lowered at times, so that only those that
    are needed come back. Survivors keep their rows' order and come first, then clones, then first and second children.

    Args:
        grow_gradient: threshold of the mean gradient, in normalised device coordinates.
        grow_scale: largest axis, in extents of the camera rig, above which a Gaussian is split and not cloned.
        prune_opacity: Gaussians below this opacity die.
        prune_scale: Gaussians whose largest axis is above this many extents die, from the first reset on.
        reset_opacity: what opacities are lowered to.
        reset_every: steps between two resets in a run of 30,000; a tenth of a shorter run.
        refinements: when to clone, split and prune; there are no resets after they stop either.
    """

    needs_screen = True

    def __init__(
        self,
        grow_gradient: float = 2e-4,
        grow_scale: float = 0.01,
        prune_opacity: float = 0.005,
        prune_scale: float = 0.1,
        reset_opacity: float = 0.01,
        reset_every: int = 3000,
        refinements: Refinements = Refinements(),
    ) -> None:
        if not 0 < prune_opacity < reset_opacity < 1:
            raise ValueError(
                f"prune_opacity={prune_opacity}, reset_opacity={reset_opacity}: give 0 < prune_opacity < reset_opacity "
                "< 1, or every reset would be everybody's death"
            )
        self.grow_gradient, self.grow_scale = grow_gradient, grow_scale
        self.prune_opacity, self.prune_scale = prune_opacity, prune_scale
        self.reset_opacity, self.reset_every, self.refinements = reset_opacity, reset_every, refinements

    def init(self, scene: GaussianScene) -> Statistics:
        zeros = scene.logit_opacities.new_zeros(len(scene))
        return {"gradient": zeros, "views": zeros}

    def observe(self, statistics: Statistics, evidence: ScreenEvidence | None) -> Statistics:
        if evidence is None:
            raise ValueError("AdaptiveDensityControl needs ScreenEvidence")
        return {
            "gradient": statistics["gradient"] + evidence.gradient_ndc,
            "views": statistics["views"] + evidence.views,
        }

    def penalised(self, grads: GaussianScene, scene: GaussianScene, extent_world: float) -> GaussianScene:
        return grads

    def densify(self, statistics: Statistics, scene: GaussianScene, context: DensifyContext) -> Densified | None:
        refines = self.refinements.due(context.step, context.steps)
        between = min(self.reset_every, max(LEAST_BETWEEN_RESETS, self.reset_every * context.steps // STANDARD_STEPS))
        resets = context.step % between == 0 and 0 < context.step < self.refinements.ends(context.steps)
        if not (refines or resets):
            return None
        lineage: Lineage | None = None
        if refines:
            scene, lineage = self._refined(statistics, scene, context, after_reset=context.step > between)
            statistics = self.init(scene)
        if resets:
            lineage = lineage or Lineage.identity(len(scene), scene.means.device)
            scene, lineage = self.reset(scene), replace(lineage, restarted=frozenset({"logit_opacities"}))
        return Densified(scene, lineage, statistics)

    def reset(self, scene: GaussianScene) -> GaussianScene:
        """``scene`` with no opacity above ``reset_opacity``."""
        highest = math.log(self.reset_opacity / (1 - self.reset_opacity))
        return replace(scene, logit_opacities=scene.logit_opacities.clamp_max(highest))

    def _refined(
        self, statistics: Statistics, scene: GaussianScene, context: DensifyContext, after_reset: bool
    ) -> tuple[GaussianScene, Lineage | None]:
        """The scene after births and deaths; no lineage when there were none."""
        with torch.no_grad():
            dies, clones, splits = self._choose(statistics, scene, context, after_reset)
        if not bool((dies | clones | splits).any()):
            return scene, None
        staying, cloned, split = (mask.nonzero()[:, 0] for mask in (~(dies | splits), clones, splits))
        parent = torch.cat([staying, cloned, split.repeat(CHILDREN)])
        fresh = torch.arange(len(parent), device=parent.device) >= len(staying)
        children = split_samples(scene.take(split), context.generator)
        rest = scene.take(torch.cat([staying, cloned]))
        return rest.map(lambda a, b: torch.cat([a, b]), children), Lineage(parent, fresh)

    def _choose(
        self, statistics: Statistics, scene: GaussianScene, context: DensifyContext, after_reset: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which rows die, are cloned, and are split [N] bool."""
        gradient = statistics["gradient"] / statistics["views"].clamp_min(1)
        size, opacity = scales(scene).amax(dim=1) / context.extent_world, opacities(scene)
        pulled = gradient > self.grow_gradient
        dies = opacity < self.prune_opacity
        if after_reset:
            dies = dies | ((size > self.prune_scale) & ~pulled)
        if bool(dies.all()):
            dies = dies.clone()
            dies[opacity.argmax()] = False  # a scene of nothing has no gradient to come back by
        grows = pulled & ~dies
        room = max(0, context.max_gaussians - int((~dies).sum()))
        if int(grows.sum()) > room:
            most = torch.where(grows, gradient, -1.0).topk(room).indices
            grows = torch.zeros_like(grows).index_fill(0, most, True)
        large = size > self.grow_scale
        return dies, grows & ~large, grows & large


def split_samples(parents: GaussianScene, generator: torch.Generator) -> GaussianScene:
    """`CHILDREN` samples of each of S Gaussians, [CHILDREN * S]: all first ones, then all second ones."""
    means = parents.means
    offsets = torch.randn(CHILDREN, len(parents), 3, generator=generator, dtype=torch.float64).to(means)
    turned = torch.einsum("nij,cnj->cni", rotation_matrices(parents.quats) * scales(parents)[:, None], offsets)
    children = parents.map(lambda tensor: tensor.repeat(CHILDREN, *[1] * (tensor.ndim - 1)))
    return replace(
        children,
        means=(means + turned).flatten(0, 1),
        log_scales=children.log_scales - math.log(SPLIT_FACTOR),
    )
