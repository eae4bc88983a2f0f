"""A head that predicts how much each parameter of each Gaussian is to be trusted: the Lambda of Diff3R."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learn2splat.scene.gaussians import GaussianScene

GROUPS = ("means", "log_scales", "quats", "logit_opacities", "sh0", "shN")
"""Groups of parameters that share one precision in a Gaussian."""
FEATURES = 2 * (8 + 2 * len(GROUPS))
"""Numbers per Gaussian that it is predicted from (`learn2splat.evidence.Evidence.features`)."""
LEAST = 1e-2
"""Floor of a precision, in units of its group's mean curvature: far below it optima are neither found nor
differentiated well, and the anchor gets no gradient."""
MOST = 1e3
"""Upper bound, likewise: there nothing moves."""
CENTRE, REACH = (math.log(MOST) + math.log(LEAST)) / 2, (math.log(MOST) - math.log(LEAST)) / 2
"""Middle and half the length of the range of their logarithms."""


@dataclass(frozen=True)
class GroupPrecision:
    """One precision per Gaussian and group.

    Args:
        by_group: [N, groups], positive, in units of the loss per squared unit of the parameter.
    """

    by_group: Tensor

    def scene(self, like: GaussianScene) -> GaussianScene:
        """The same in the shapes of ``like``."""
        means, log_scales, quats, logit_opacities, sh0, shN = (
            column.to(like.means.dtype) for column in self.by_group.unbind(dim=1)
        )
        sh = torch.cat([sh0[:, None], shN[:, None].expand(-1, like.sh.shape[1] - 1)], dim=1)
        return GaussianScene(
            means[:, None].expand_as(like.means).contiguous(),
            log_scales[:, None].expand_as(like.log_scales).contiguous(),
            quats[:, None].expand_as(like.quats).contiguous(),
            logit_opacities.contiguous(),
            sh[..., None].expand_as(like.sh).contiguous(),
        )


class UncertaintyHead(nn.Module):
    """Evidence about a Gaussian -> precision of its parameters, relative to the mean curvature of the loss.

    Diff3R (arXiv 2604.01030) adds such an output to its feed-forward network. This one stands beside any source of
    Gaussians, since all it looks at can be measured on them. Relative to the curvature, a precision suits any loss,
    number of pixels and unit of length. Untrained it is ``start`` everywhere. Its logarithm is bounded smoothly, by a
    hyperbolic tangent: at a bound that cuts, the gradient would die.

    Args:
        width: of the two hidden layers.
        start: untrained precision, of all groups or of each, in units of the group's mean curvature.

    Raises:
        ValueError: a start is not between `LEAST` and `MOST`, or their number is not that of `GROUPS`.
    """

    def __init__(self, width: int = 32, start: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        starts = torch.tensor([start] * len(GROUPS) if isinstance(start, int | float) else list(start))
        if len(starts) != len(GROUPS) or not bool(((starts > LEAST) & (starts < MOST)).all()):
            raise ValueError(f"start is {start}; give one or {len(GROUPS)} numbers between {LEAST} and {MOST}")
        last = nn.Linear(width, len(GROUPS))
        self.layers = nn.Sequential(nn.Linear(FEATURES, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), last)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(REACH * ((starts.log() - CENTRE) / REACH).atanh())

    def forward(self, features: Tensor, curvature: Tensor) -> GroupPrecision:
        """Precisions from features [N, FEATURES] and mean curvatures [groups]; differentiable in the weights."""
        found = self.layers(features.to(curvature.device, next(self.parameters()).dtype))
        relative = (CENTRE + REACH * (found / REACH).tanh()).exp()
        return GroupPrecision(relative * curvature.to(relative))


def by_group(scene: GaussianScene) -> tuple[Tensor, ...]:
    """[N, entries] per entry of `GROUPS`; without higher harmonics, the last is a column of zeros."""
    rest = scene.sh[:, 1:].flatten(1)
    if rest.shape[1] == 0:
        rest = torch.zeros_like(scene.logit_opacities)[:, None]
    return (scene.means, scene.log_scales, scene.quats, scene.logit_opacities[:, None], scene.sh[:, 0], rest)
