"""Scale-free, rotation-invariant features of Gaussians under optimisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.optim.ages import correction
from learn2splat.optim.base import StepContext
from learn2splat.optim.learned.moments import GROUPS, MomentDecays, by_group
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.neighbours import neighbour_distances

TINY = 1e-20
PER_GROUP = ("newest", "signal", "slow_signal", "scale", "agreement")
"""Features per parameter group: log |g| / sqrt(v); |m| / sqrt(v); |m_slow| / sqrt(v); log sqrt(v) relative to the
median Gaussian; share of the gradient on which the views agree."""
PER_GAUSSIAN = ("size_px", "elongation", "size_per_spacing", "opacity", "seen", "spacing_px", "seen_by")
"""Features per Gaussian: logarithms of size in pixels, longest / shortest axis, size / distance to neighbours; the
logit of the opacity; share of recent steps in which it was drawn; logarithm of the distance to neighbours in pixels;
logarithm of about how many training views see it: what few views see is over-fitted first."""
GLOBAL = ("step", "views", "progress", "batch")
"""Features of the run: log step, log number of training views, log running loss / first loss, log views per step."""
COUNT = len(PER_GROUP) * len(GROUPS) + len(PER_GAUSSIAN) + len(GLOBAL)


@dataclass(frozen=True)
class Evidence:
    """What features are made of.

    Args:
        moments: rows ``m.*, m_slow.*, v.*, age.*`` of the rule's state, after the newest gradient.
        grads: the newest gradient.
        agreement: [N, 2, groups] running sums over steps: squared mean gradient, and sum of squares over views.
        seen: [N] running share of steps in which the Gaussian was drawn.
        running_loss, first_loss: of the run.
    """

    moments: Mapping[str, Tensor]
    grads: GaussianScene
    agreement: Tensor
    seen: Tensor
    running_loss: float
    first_loss: float


def features(scene: GaussianScene, evidence: Evidence, context: StepContext, decays: MomentDecays) -> Tensor:
    """[N, COUNT] features, all of order 1.

    They do not change when the world is moved, turned or scaled, nor when the loss is multiplied by a constant.

    Args:
        scene: N Gaussians.
        evidence: of the optimizer's state.
        context: with pixel footprints and neighbours.
        decays: of the moments.
    """
    assert context.pixel_footprint_world is not None
    assert context.neighbours is not None

    def moment(name: str) -> GaussianScene:
        return GaussianScene(**{p: evidence.moments[f"{name}.{p}"] for p, _ in scene.items()})

    def correct(decay: float) -> Tensor:
        by_parameter = {name: evidence.moments[f"age.{name}"].reshape(-1) for name, _ in scene.items()}
        ages = torch.stack([by_parameter.get(group, by_parameter["sh"]) for group in GROUPS], dim=1)
        return correction(decay, 1.0, ages, scene.means.dtype)

    v = by_group(moment("v"), squared=True) * correct(decays.v)
    root_v = (v + TINY).sqrt()
    newest = (by_group(evidence.grads) + TINY).sqrt() / root_v
    signal = by_group(moment("m")).sqrt() * correct(decays.m) / root_v
    slow = by_group(moment("m_slow")).sqrt() * correct(decays.m_slow) / root_v
    log_v = root_v.log()
    relative = log_v - log_v.median(dim=0).values if len(scene) else log_v
    agreement = evidence.agreement[:, 0] / (evidence.agreement[:, 1] + TINY)
    per_group = [newest.clamp_min(1e-3).log() / 2, signal, slow, relative / 3, agreement]

    footprint = context.pixel_footprint_world.to(scene.means).log()
    size = scene.log_scales.mean(dim=1)
    spacing = neighbour_distances(scene.means, context.neighbours).mean(dim=1).clamp_min(TINY).log()
    per_gaussian = [
        (size - footprint) / 3,
        (scene.log_scales.amax(dim=1) - scene.log_scales.amin(dim=1)) / 2,
        size - spacing,
        scene.logit_opacities / 4,
        evidence.seen,
        (spacing - footprint) / 3,
        torch.log1p(evidence.seen * context.train_views) - 2,
    ]
    of_run = torch.tensor(
        [
            math.log1p(context.step) / 4 - 1,
            math.log(context.train_views / 24) / 2,
            math.log(max(evidence.running_loss, 1e-9) / max(evidence.first_loss, 1e-9)),
            math.log(context.batch_views / 4),
        ]
    ).to(scene.means)
    columns = [*per_group, torch.stack(per_gaussian, dim=1), of_run.expand(len(scene), len(GLOBAL))]
    return torch.cat(columns, dim=1).clamp(-4, 4)
