"""3DGS-MCMC (Kheradmand et al. 2024): dead Gaussians move to where live ones are, noise explores, nothing is pruned."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from learn2splat.densify.base import Densified, DensifyContext, ScreenEvidence, Statistics
from learn2splat.densify.schedule import Refinements
from learn2splat.scene.gaussians import GaussianScene, opacities, scales
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.rotation import rotation_matrices

TERMS = 100
"""Of the series in `shared_among`; the later ones vanish for every opacity up to `MAX_OPACITY`."""
MAX_OPACITY = 1 - 1e-6
NOISE_SHARPNESS = 100.0
"""How sharply noise sets in below the opacity of the dead (section 3.2 of the paper)."""
FINAL_NOISE = 0.01
"""Share of the noise that is left at the end of the run: it follows the means' rate of 3DGS."""


class Mcmc:
    """Relocate the dead onto the living, add Gaussians up to the cap, and walk the nearly dead at random.

    Copies are made so that they look as the one Gaussian did (`shared_among`). A relocated Gaussian takes over its
    source's moments, as the two now share its part; an added one is newborn. Relocated rows stay where they are in the
    order, added ones come last. Steps that refine add no noise. Opacities and scales are penalised as part of the loss,
    so their gradients go through the optimizer like all others: ``opacity_penalty * mean(opacity) + scale_penalty *
    mean(scale / extent)``. Lengths are in extents of the camera rig, so that the method does not depend on the unit of
    the world.

    Args:
        min_opacity: Gaussians of this opacity or less are dead.
        growth: factor on the number of Gaussians per refinement, up to the cap.
        noise: of the means per step, as a factor on covariance / extent; the paper's 5e5 x 1.6e-4 = 80.
        opacity_penalty, scale_penalty: weights beside the loss.
        refinements: when to relocate and add.
    """

    needs_screen = False

    def __init__(
        self,
        min_opacity: float = 0.005,
        growth: float = 1.05,
        noise: float = 80.0,
        opacity_penalty: float = 0.01,
        scale_penalty: float = 0.01,
        refinements: Refinements = Refinements(stop=25_000),
    ) -> None:
        if not 0 < min_opacity < 1:
            raise ValueError(f"min_opacity is {min_opacity}; it must lie in (0, 1)")
        if growth < 1:
            raise ValueError(f"growth is {growth}; it must be 1 or more")
        self.min_opacity, self.growth, self.noise = min_opacity, growth, noise
        self.opacity_penalty, self.scale_penalty, self.refinements = opacity_penalty, scale_penalty, refinements

    def init(self, scene: GaussianScene) -> Statistics:
        return {}

    def observe(self, statistics: Statistics, evidence: ScreenEvidence | None) -> Statistics:
        return statistics

    def penalised(self, grads: GaussianScene, scene: GaussianScene, extent_world: float) -> GaussianScene:
        opacity, scale = opacities(scene), scales(scene)
        by_opacity = self.opacity_penalty / max(1, opacity.numel())
        by_scale = self.scale_penalty / max(1, scale.numel()) / extent_world
        return replace(
            grads,
            logit_opacities=grads.logit_opacities.addcmul(opacity, 1 - opacity, value=by_opacity),
            log_scales=grads.log_scales.add(scale, alpha=by_scale),
        )

    def densify(self, statistics: Statistics, scene: GaussianScene, context: DensifyContext) -> Densified | None:
        if self.refinements.due(context.step, context.steps):
            moved, relocated = self.relocate(scene, context.generator)
            grown, added = self.add(moved, context)
            lineage = relocated.then(added)
            return None if lineage.is_identity(len(scene)) else Densified(grown, lineage, statistics)
        with torch.no_grad():
            noise = self._noise(scene, context)
        return Densified(replace(scene, means=scene.means + noise), None, statistics)

    def relocate(self, scene: GaussianScene, generator: torch.Generator) -> tuple[GaussianScene, Lineage]:
        """The dead become copies of living ones, drawn in proportion to opacity."""
        opacity = opacities(scene).detach()
        living = opacity > self.min_opacity
        dead = (~living).nonzero()[:, 0]
        source = _draw(opacity * living, len(dead), generator)
        parent = torch.arange(len(scene), device=dead.device)
        parent[dead[: len(source)]] = source
        lineage = Lineage(parent, torch.zeros_like(living))
        return self._copied(scene, lineage), lineage

    def add(self, scene: GaussianScene, context: DensifyContext) -> tuple[GaussianScene, Lineage]:
        """Copies of living ones, drawn in proportion to opacity, as newborn rows up to the cap."""
        count = min(context.max_gaussians, int(self.growth * len(scene))) - len(scene)
        source = _draw(opacities(scene).detach(), max(0, count), context.generator)
        parent = torch.cat([torch.arange(len(scene), device=source.device), source])
        lineage = Lineage(parent, torch.arange(len(parent), device=source.device) >= len(scene))
        return self._copied(scene, lineage), lineage

    def _copied(self, scene: GaussianScene, lineage: Lineage) -> GaussianScene:
        """The rows of ``lineage``, those of one parent sharing its opacity."""
        copies = torch.bincount(lineage.parent, minlength=len(scene))[lineage.parent]
        taken = scene.take(lineage.parent)
        shared = copies > 1
        logits, log_scales = shared_among(taken.logit_opacities[shared], taken.log_scales[shared], copies[shared])
        least = math.log(self.min_opacity / (1 - self.min_opacity))
        rows = shared.nonzero()[:, 0]
        return replace(
            taken,
            logit_opacities=taken.logit_opacities.index_copy(0, rows, logits.clamp_min(least)),
            log_scales=taken.log_scales.index_copy(0, rows, log_scales),
        )

    def _noise(self, scene: GaussianScene, context: DensifyContext) -> Tensor:
        """[N, 3] world units: along the Gaussian's own covariance, for the nearly dead only (equation 8)."""
        means = scene.means
        normal = torch.randn(means.shape, generator=context.generator).to(means)
        axes = rotation_matrices(scene.quats) * scales(scene)[:, None]
        along = (axes @ (axes.mT @ normal[..., None]))[..., 0] / context.extent_world
        gate = torch.sigmoid(NOISE_SHARPNESS * (self.min_opacity - opacities(scene)))
        decay = FINAL_NOISE ** min(1.0, context.step / context.steps)
        return self.noise * decay * gate[:, None] * along


def shared_among(logit_opacities: Tensor, log_scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scale of n coincident Gaussians that look as one did (3DGS-MCMC, equation 9).

    ``1 - (1 - o')^n = o`` keeps what is seen at the centre; the factor on the scales, ``o / sum_{j=1..n} C(n, j)
    (-1)^{j-1} o'^j / sqrt(j)``, keeps the integral of alpha along any line through it. (The paper's double sum, with
    the sum over the Gaussians in front carried out.)

    Args:
        logit_opacities: [M] of the one.
        log_scales: [M, 3] of the one.
        copies: [M] n >= 1.

    Returns:
        (logit_opacities [M], log_scales [M, 3]) of each of the n; differentiable in the first two arguments.
    """
    opacity = logit_opacities.double().sigmoid().clamp_max(MAX_OPACITY)
    number = copies.double()
    each = -torch.expm1(torch.log1p(-opacity) / number)
    total, term = torch.zeros_like(each), -torch.ones_like(each)
    for j in range(1, min(TERMS, int(copies.max()) if len(copies) else 0) + 1):
        term = -term * each * (number - j + 1).clamp_min(0) / j  # C(n, j) (-1)^{j-1} o'^j
        total = total + term / math.sqrt(j)
    grown = (opacity / total).log()
    return each.logit().to(logit_opacities), log_scales + grown[:, None].to(log_scales)


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count] int64 rows drawn with replacement in proportion to ``weights`` [N]; none where all weights are 0."""
    host = weights.cpu().double()
    if count == 0 or not bool((host > 0).any()):
        return torch.zeros(0, dtype=torch.int64, device=weights.device)
    return torch.multinomial(host, count, replacement=True, generator=generator).to(weights.device)
