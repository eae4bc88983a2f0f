"""What tells Gaussians apart at the price of a few numbers each: the learned rule's per-Gaussian inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learn2splat.optim.ages import correction
from learn2splat.optim.learned.moments import GROUPS, MomentDecays, as_matrix, group_slices
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
TINY = 1e-30


def traits(
    scene: GaussianScene,
    rows: Mapping[str, Tensor],
    ages: Mapping[str, Tensor],
    pixel_footprint_world: Tensor,
    decays: MomentDecays,
) -> Tensor:
    """[N, traits, groups], in the order of `TRAITS` and `GROUPS`; they do not change when the world is scaled or turned.

    Args:
        scene: N Gaussians.
        rows: ``v.*`` of the state after the newest gradient, and ``visibility`` [N].
        ages: parameter -> N gradients seen, in any shape.
        pixel_footprint_world: [N] size of a pixel at each Gaussian.
        decays: of the moments.
    """
    size = scene.log_scales.mean(dim=1) - pixel_footprint_world.to(scene.log_scales).log()
    loudness = scene.means.new_zeros(len(scene), len(GROUPS))
    for name, tensor in scene.items():
        squares = as_matrix(rows[f"v.{name}"])
        root = correction(decays.v, 1.0, ages[name].reshape(-1), squares.dtype)
        for group, columns in group_slices(name, scene.sh.shape[1]).items():
            if tensor.numel() and squares[:, columns].shape[1]:
                mean = squares[:, columns].mean(dim=1) * root
                loudness[:, GROUPS.index(group)] = mean.clamp_min(TINY).log() / 2
    visibility = rows["visibility"].clamp_min(TINY).log()
    seen = (rows["visibility"] > 0).to(scene.means)[:, None]  # the others have no gradient
    found = torch.stack(
        [size[:, None].expand_as(loudness), loudness, visibility[:, None].expand_as(loudness)], dim=1
    )
    mean = (found * seen[:, None]).sum(dim=0) / seen.sum().clamp_min(1)
    return (found - mean).clamp(-MOST, MOST)
