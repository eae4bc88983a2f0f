"""Camera paths: a ring around an object, forward-facing, a walk, and a survey from above."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from learn2splat.data.procedural.arrays import Array, Rng
from learn2splat.data.procedural.raycast import Eye
from learn2splat.data.procedural.world import World


def look_at(center: Array, target: Array, roll: float = 0.0, up: tuple[float, float, float] = (0, 0, 1)) -> Array:
    """world_from_cam [3, 3] (OpenCV axes) of a camera at ``center`` that sees ``target`` in the middle."""
    forward = target - center
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * down, c * down - s * right, forward], 1)


def ring(rng: Rng, views: int, world: World) -> list[tuple[Array, Array]]:
    """Around the focus, on a full circle or an arc, rising and sinking."""
    focus, reach = world.focus, world.reach
    arc = 2 * np.pi if rng.random() < 0.7 else rng.uniform(2.2, 4.5)
    # Few photos are taken from one side: neighbours must show the same things to be matched.
    arc = min(arc, 0.4 * max(views - 1, 1))
    closed = arc > 6
    angle = rng.random() * 6.28 + np.arange(views) * arc / (views if closed else max(views - 1, 1))
    angle += rng.normal(0, 0.04, views)
    low, swing = rng.uniform(*world.elevation), rng.uniform(0.03, 0.2)
    elevation = np.clip(low + swing * np.sin(angle * rng.integers(1, 4) + rng.random() * 6), 0.06, 1.1)
    distance = reach * (1 + 0.08 * np.sin(2 * angle + rng.random() * 6) + rng.normal(0, 0.03, views))
    centers = focus + distance[:, None] * np.stack(
        [np.cos(elevation) * np.cos(angle), np.cos(elevation) * np.sin(angle), np.sin(elevation)], -1
    )
    targets = focus + rng.normal(0, 0.04 * reach, (views, 3))
    return [(c, look_at(c, t, r)) for c, t, r in zip(centers, targets, rng.normal(0, 0.03, views), strict=True)]


def forward(rng: Rng, views: int, world: World) -> list[tuple[Array, Array]]:
    """Side by side in front of the focus (towards -y), all facing it."""
    focus, reach = world.focus, world.reach
    x = np.linspace(-1, 1, views) * rng.uniform(0.3, 0.5) if views > 1 else np.zeros(1)
    z = 0.06 * np.sin(np.arange(views) * 2.1 + rng.random() * 6) + rng.normal(0, 0.02, views)
    y = -1 + rng.normal(0, 0.06, views) + 0.2 * x**2
    centers = focus + reach * np.stack([x, y, z], -1)
    centers[:, 2] = np.maximum(centers[:, 2], 1.2 if focus[2] > 1.3 else 0.3)
    targets = focus + reach * np.stack([0.35 * x, 0 * x, rng.normal(0, 0.03, views)], -1)
    return [(c, look_at(c, t, r)) for c, t, r in zip(centers, targets, rng.normal(0, 0.015, views), strict=True)]


def walk(rng: Rng, views: int, world: World) -> list[tuple[Array, Array]]:
    """Forward along +y through the focus, swaying and looking from side to side."""
    focus, reach = world.focus, world.reach
    s = np.linspace(0, min(1.0, (views - 1) / 9), views)
    phase = rng.random(2) * 6.28
    x = 0.08 * reach * np.sin(4 * s + phase[0])
    y = reach * (-0.85 + rng.uniform(0.7, 1.0) * s)
    z = 0.02 * np.sin(20 * s + phase[1]) + rng.normal(0, 0.02, views)
    centers = focus + np.stack([x, y, z], -1)
    yaw = rng.uniform(0.15, 0.45) * np.sin(rng.uniform(4, 9) * s + phase[1])
    pitch = rng.normal(-0.08, 0.05, views)
    targets = centers + np.stack([np.sin(yaw), np.cos(yaw), pitch], -1)
    return [(c, look_at(c, t, r)) for c, t, r in zip(centers, targets, rng.normal(0, 0.02, views), strict=True)]


def nadir(rng: Rng, views: int, world: World) -> list[tuple[Array, Array]]:
    """Flight lines at height ``reach`` above the focus, looking down, with the overlap of a survey."""
    focus, reach = world.focus, world.reach
    lines = max(1, round(np.sqrt(views * 0.6)))
    per_line = int(np.ceil(views / lines))
    index = np.arange(views)
    line, along = index // per_line, index % per_line
    along = np.where(line % 2 == 0, along, per_line - 1 - along)
    span = min(0.3 * reach, 1.8 * reach / max(per_line, lines))
    x, y = (along - (per_line - 1) / 2) * span, (line - (lines - 1) / 2) * span * 1.3
    heading = rng.random() * 6.28
    c, s = np.cos(heading), np.sin(heading)
    centers = focus + np.stack([c * x - s * y, s * x + c * y, np.full(views, reach)], -1)
    centers += rng.normal(0, 0.015 * reach, (views, 3))
    targets = centers - [0, 0, reach] + rng.normal(0, 0.04 * reach, (views, 3))
    up = (float(-s), float(c), 0.0)
    return [(a, look_at(a, b, up=up)) for a, b in zip(centers, targets, strict=True)]


PATHS: dict[str, Callable[[Rng, int, World], list[tuple[Array, Array]]]] = {
    "ring": ring,
    "forward": forward,
    "walk": walk,
    "nadir": nadir,
}


def eyes(path: str, rng: Rng, views: int, size: tuple[int, int], world: World) -> list[Eye]:
    """The views of one path, all with one set of intrinsics.

    Args:
        path: a key of ``PATHS``.
        rng: draws the path and the focal length.
        views: how many; size: (width, height) in pixels.
        world: whose focus is looked at.
    """
    width, height = size
    focal = rng.uniform(0.75, 1.05) * max(width, height)
    cx, cy = width / 2 + rng.normal(0, 0.004 * width), height / 2 + rng.normal(0, 0.004 * height)
    return [Eye(c, r, focal, focal, cx, cy, width, height) for c, r in PATHS[path](rng, views, world)]
