"""`l2s-faithful`: the optimizer of Learn2Splat (arXiv 2605.15760) as published, to compare with."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from learn2splat.networks.chunks import by_chunks
from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows, from_rows, zeros_like
from learn2splat.optim.learned.knn_transformer import KnnTransformer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

SH_DEGREE = 3
"""The network always sees, and moves, harmonics of this degree; lower ones are padded with zeros."""
COLUMNS = {"means": 3, "log_scales": 3, "quats": 4, "logit_opacities": 1, "sh": 3 * (SH_DEGREE + 1) ** 2}
NUMBERS = sum(COLUMNS.values())
"""Parameters per Gaussian: 59."""
LIMITS = {"log_scales": (-8.0, math.log(3.0)), "logit_opacities": (-7.0, 7.0), "sh": (-2.0, 2.0)}
"""What parameters are clamped to; scales in world units, as published."""
BETA1, BETA2, EPS = 0.9, 0.999, 1e-15
NEAREST_OTHERS = 3
"""Each Gaussian attends to itself and so many neighbours."""
CYCLES = 1e4
"""Frequency of `scattered_normals` per world unit: Gaussians further apart than its inverse get unrelated numbers."""


class FaithfulOptimizer(torch.nn.Module):
    """A recurrent transformer replaces the update rule: no step sizes, no schedule, no time.

    Gradients are normalised by Adam's moments with a step count per Gaussian; the network maps parameters, latent
    state and normalised gradients to a change and a new latent state; the new parameters are clamped to `LIMITS`. In
    training mode Gaussians without a gradient keep parameters, moments, count and latent state, and updates and latent
    state are differentiable in the weights; moments are constants. Untrained, nothing within `LIMITS` moves.

    What differs from the publication: the latent state starts from `scattered_normals` instead of a random draw; the
    neighbours are those of `StepContext`, renewed every so many steps in training too; Gaussians without a gradient are
    still attended to in training; quaternions are wxyz; float32 throughout.

    Args:
        width: of the latent state; published 256.
        attention: width of queries, keys and values; published 64.
        hidden: width of the blocks' MLPs; published 1024.
        blocks: how many; published 4.
    """

    low: Tensor
    high: Tensor

    def __init__(self, width: int = 256, attention: int = 64, hidden: int = 1024, blocks: int = 4) -> None:
        super().__init__()
        self.width = width
        self.network = KnnTransformer(NUMBERS, width, attention, hidden, blocks)
        limits = [LIMITS.get(name, (-math.inf, math.inf)) for name, columns in COLUMNS.items() for _ in range(columns)]
        low, high = torch.tensor(limits).unbind(1)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.NEIGHBOURS})

    def perturbed(self, generator: torch.Generator) -> FaithfulOptimizer:
        """A copy whose changes are larger or smaller by up to e^1."""
        other = copy.deepcopy(self).eval()
        other.network.scale_magnitude(math.exp(2 * float(torch.rand((), generator=generator)) - 1))
        return other

    def init(self, scene: GaussianScene) -> OptimizerState:
        rows = {
            "count": torch.zeros(len(scene), 1, dtype=torch.int64, device=scene.means.device),
            "latent": scattered_normals(scene.means, self.width),
        }
        zeros = zeros_like(scene)
        return OptimizerState(as_rows("m", zeros) | as_rows("v", zeros) | rows)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        if context.neighbours is None:
            raise ValueError("FaithfulOptimizer needs StepContext.neighbours")
        old = state.rows
        with torch.no_grad():
            grad, parameters = to_rows(grads), to_rows(scene)
            moved = (grad != 0).any(dim=1, keepdim=True) | (not self.training)
            count = old["count"] + moved
            old_m, old_v = to_rows(from_rows("m", state)), to_rows(from_rows("v", state))
            m = torch.where(moved, old_m.lerp(grad, 1 - BETA1), old_m)
            v = torch.where(moved, (old_v * BETA2).addcmul_(grad, grad, value=1 - BETA2), old_v)
            itself = torch.arange(len(scene), device=grad.device)[:, None]
            nearest = torch.cat([itself, context.neighbours[:, :NEAREST_OTHERS].long()], dim=1)
            inputs = parameters, old["latent"], normalised(m, v, count)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            change, latent = self.network(*(part.to(self.network.embed.weight) for part in inputs), nearest)
            change = change.to(grad).clamp(self.low.to(grad) - parameters, self.high.to(grad) - parameters)
            change = torch.where(moved, change, 0.0)
            latent = torch.where(moved, latent.to(grad), old["latent"])
            rows = as_rows("m", to_scene(m, scene)) | as_rows("v", to_scene(v, scene))
        return to_scene(change, scene), OptimizerState(rows | {"count": count, "latent": latent})

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        """Fresh rows start with zero moments; they inherit step count and latent state."""
        return state.take(lineage, inherited=("count", "latent"))


def normalised(m: Tensor, v: Tensor, count: Tensor) -> Tensor:
    """[N, C] Adam's direction from moments [N, C] of ``count`` [N, 1] gradients; zero where there was none."""
    steps = count.clamp_min(1).to(m)
    return m / (1 - BETA1**steps) / ((v / (1 - BETA2**steps)).sqrt() + EPS)


def to_rows(scene: GaussianScene) -> Tensor:
    """[N, 59] all parameters in the order of `COLUMNS`, the harmonics channel by channel."""
    sh = scene.with_sh_degree(SH_DEGREE).sh.transpose(1, 2)
    parts = [scene.means, scene.log_scales, scene.quats, scene.logit_opacities[:, None], sh.flatten(1)]
    return torch.cat(parts, dim=1)


def to_scene(columns: Tensor, like: GaussianScene) -> GaussianScene:
    """The inverse of `to_rows` for a scene with the harmonics of ``like``."""
    means, log_scales, quats, logits, sh = columns.split(list(COLUMNS.values()), dim=1)
    sh = sh.unflatten(1, (3, -1)).transpose(1, 2)[:, : like.sh.shape[1]]
    return GaussianScene(means, log_scales, quats, logits[:, 0], sh).map(Tensor.contiguous)


@torch.no_grad()
def scattered_normals(means: Tensor, count: int) -> Tensor:
    """[N, count] standard normal numbers that look random but depend on the position alone.

    Runs can be repeated, and permuting Gaussians permutes the numbers (Box & Muller 1958 on a hash of the position).

    Args:
        means: [N, 3] centres, world units.
        count: numbers per Gaussian.
    """
    generator = torch.Generator().manual_seed(0)
    frequencies = CYCLES * torch.randn(3, 2 * count, generator=generator, dtype=torch.float64).to(means.device)

    def normals(means: Tensor) -> Tensor:
        radius, angle = (means @ frequencies).remainder(1.0).chunk(2, dim=1)
        return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)

    return by_chunks(normals, means.double()).to(means)
