"""What tells Gaussians apart at the price of a few numbers each: the learned rule's per-Gaussian inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learn2splat.optim.ages import correction
from learn2splat.optim.learned.moments import GROUPS
from learn2splat.scene.gaussians import GaussianScene

TRAITS = ("size", "loudness", "visibility")
"""Logarithms relative to the average Gaussian:

- size: on the screen, in pixels;
- loudness: root mean square of the group's gradients (that which Adam divides by);
- visibility: share of recent steps in which it was drawn.
"""
VISIBILITY_MEMORY = 0.95
"""Decay per step of the share of steps in which a Gaussian was drawn."""
MOST = 3.0
"""A trait lies within +-this."""
MOST_GAIN = 8.0
"""Traits change a step by this factor at most."""
TINY = 1e-30


def traits(
    scene: GaussianScene,
    squares: Tensor,
    visibility: Tensor,
    ages: Mapping[str, Tensor],
    pixel_footprint_world: Tensor,
    decay: float,
) -> list[Tensor]:
    """[N, groups or 1] of each of `TRAITS`; they do not change when the world is scaled, moved or turned.

    Args:
        scene: N Gaussians.
        squares: [N, groups] mean second moment of each group, after the newest gradient.
        visibility: [N] share of recent steps in which each was drawn.
        ages: parameter -> N gradients seen, in any shape.
        pixel_footprint_world: [N] size of a pixel at each Gaussian.
        decay: of the second moment.
    """
    size = scene.log_scales.mean(dim=1) - pixel_footprint_world.to(scene.log_scales).log()
    correct = {name: correction(decay, 1.0, age.reshape(-1), squares.dtype) for name, age in ages.items()}
    unbiased = squares * torch.stack([correct.get(group, correct["sh"]) for group in GROUPS], dim=1)
    loudness = unbiased.clamp_min(TINY).log() / 2
    seen = (visibility > 0).to(squares)  # the others have no gradient
    shares = seen / seen.sum().clamp_min(1)
    found = (size[:, None], loudness, visibility.clamp_min(TINY).log()[:, None])
    return [(trait - shares @ trait).clamp(-MOST, MOST) for trait in found]


def gains(traits: Sequence[Tensor], powers: Tensor) -> Tensor:
    """[N, groups] factors on the steps of each Gaussian: the product of its `traits` to [traits, groups] powers."""
    log_gain = sum(trait * power for trait, power in zip(traits, powers, strict=True))
    assert isinstance(log_gain, Tensor)
    most = math.log(MOST_GAIN)
    return log_gain.clamp(-most, most).exp()
