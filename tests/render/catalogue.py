"""Scenes that a rasteriser must get right, the ordinary and the extreme."""

from __future__ import annotations

from dataclasses import replace

import torch

from learn2splat.cameras import Cameras
from learn2splat.scene.gaussians import GaussianScene
from tests.conftest import random_scene, ring_cameras


def shifted(scene: GaussianScene, rows: slice, **changes: float) -> GaussianScene:
    """Set the named parameters of some rows to a constant."""
    parts = {name: tensor.clone() for name, tensor in scene.items()}
    for name, value in changes.items():
        parts[name][rows] = value
    return GaussianScene(**parts)


def ordinary() -> tuple[GaussianScene, Cameras]:
    return random_scene(250), ring_cameras(3)


def in_and_behind_the_camera() -> tuple[GaussianScene, Cameras]:
    return random_scene(150, seed=1, spread=4.0), ring_cameras(2)


def off_screen() -> tuple[GaussianScene, Cameras]:
    scene = random_scene(150, seed=2, spread=3.0)
    return replace(scene, log_scales=scene.log_scales + 1.0), ring_cameras(2, distance=6.0)


def huge() -> tuple[GaussianScene, Cameras]:
    return shifted(random_scene(30, seed=3), slice(0, 10), log_scales=1.5), ring_cameras(2)


def tiny() -> tuple[GaussianScene, Cameras]:
    """Far smaller than a pixel: the low-pass is all one sees of their shape."""
    scene = random_scene(200, seed=4)
    return replace(scene, log_scales=scene.log_scales - 6.0), ring_cameras(2)


def needles() -> tuple[GaussianScene, Cameras]:
    scene = random_scene(60, seed=5)
    log_scales = torch.tensor([0.0, -9.0, -9.0], dtype=torch.float64).expand(60, 3)
    return replace(scene, log_scales=log_scales.contiguous()), ring_cameras(2)


def opaque() -> tuple[GaussianScene, Cameras]:
    """Opacities over max_alpha: the clamp is active, and most pixels stop early."""
    return shifted(random_scene(200, seed=6), slice(0, 150), logit_opacities=9.0), ring_cameras(2)


def transparent() -> tuple[GaussianScene, Cameras]:
    return shifted(random_scene(100, seed=7), slice(0, 60), logit_opacities=-6.0), ring_cameras(2)


def crowded() -> tuple[GaussianScene, Cameras]:
    """More Gaussians in a tile than one batch of the kernel holds."""
    return shifted(random_scene(700, seed=8), slice(None), logit_opacities=-2.5), ring_cameras(1, 20, 20)


def many_cameras() -> tuple[GaussianScene, Cameras]:
    return random_scene(100, seed=9), ring_cameras(9, 17, 33)


def one_gaussian() -> tuple[GaussianScene, Cameras]:
    return random_scene(1, seed=10), ring_cameras(2)


SCENES = [
    ordinary,
    in_and_behind_the_camera,
    off_screen,
    huge,
    tiny,
    needles,
    opaque,
    transparent,
    crowded,
    many_cameras,
    one_gaussian,
]
