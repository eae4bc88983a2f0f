"""Light and far surroundings: sun and sky outdoors, windows and walls indoors."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from learn2splat.data.procedural.arrays import Array, Rng, Values
from learn2splat.data.procedural.palette import pick
from learn2splat.data.procedural.textures import mix, noise
from learn2splat.data.procedural.world import Light

_ROWS = 512


def _direction(azimuth: float, elevation: float) -> Array:
    c = np.cos(elevation)
    return np.array([c * np.cos(azimuth), c * np.sin(azimuth), np.sin(elevation)])


def outdoor(rng: Rng, center: Values, radius: float, haze: float = 0.002) -> tuple[Light, NDArray[np.float32]]:
    """Sun or overcast over hills, trees or a town.

    Args:
        rng: draws weather, time of day and the horizon.
        center, radius: ball that shadows are computed for.
        haze: extinction per world unit.

    Returns:
        The light, and the panorama [512, 1024, 3].
    """
    overcast = rng.random() < 0.3
    elevation = rng.uniform(0.35, 1.25)
    warmth = np.exp(-2.5 * elevation)
    sun = np.array([1.0, 1 - 0.45 * warmth, 1 - 0.8 * warmth])
    zenith = np.array([0.16, 0.30, 0.62]) * rng.uniform(0.8, 1.3)
    horizon = np.array([0.62, 0.72, 0.82]) * rng.uniform(0.85, 1.15) * (1 + warmth * np.array([0.3, 0.0, -0.3]))
    if overcast:
        zenith, horizon = np.array([0.62, 0.66, 0.72]), np.array([0.85, 0.86, 0.88])
        sun = sun * rng.uniform(0.02, 0.2)
    light = Light(
        _direction(rng.random() * 2 * np.pi, elevation),
        sun * rng.uniform(1.6, 2.4),
        (0.5 if not overcast else 1.0) * mix_color(zenith, horizon, 0.5),
        (0.22 if not overcast else 0.3) * np.array([1.0, 0.93, 0.8]) * (0.3 + np.sin(elevation)),
        float(rng.uniform(0.004, 0.012) if not overcast else 0.06),
        0,
        haze * float(np.exp(rng.normal(-0.6, 0.6))),
        np.asarray(center, float),
        radius,
    )
    return light, _landscape(rng, zenith, horizon, overcast)


def mix_color(a: Values, b: Values, weight: float) -> Array:
    """Blend of two colours."""
    return np.asarray(a) * (1 - weight) + np.asarray(b) * weight


def _blurred(rgb: Array, sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), sigma), np.float32)


def _large(field: Array) -> Array:
    """A square tileable field stretched over the panorama."""
    size = (2 * field.shape[1], field.shape[0])
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_CUBIC), float)


def _skyline(rng: Rng, columns: int, power: float) -> Array:
    """Periodic 1/f noise [columns], unit variance."""
    gain = np.maximum(np.fft.rfftfreq(columns) * columns, 1) ** -power
    line = np.fft.irfft(np.fft.rfft(rng.standard_normal(columns)) * gain, columns)
    return line / line.std()


def _landscape(rng: Rng, zenith: Array, horizon: Array, overcast: bool) -> NDArray[np.float32]:
    rows, columns = _ROWS, 2 * _ROWS
    elevation = (0.5 - (np.arange(rows) + 0.5) / rows) * np.pi
    up = np.clip(np.sin(elevation), 0, 1)[:, None]
    rgb = mix(horizon, zenith, np.broadcast_to(up**0.55, (rows, columns)))
    clouds, detail = _large(noise(rng, rows, 1.4)), _large(noise(rng, rows, 1.2))
    cover = np.clip((clouds - rng.uniform(-0.2, 1.8)) * 1.4, 0, 1) * np.clip(up * 4, 0, 1) * (0.3 if overcast else 0.9)
    rgb = mix(rgb, np.clip(0.8 + 0.12 * detail, 0, 1.2)[..., None] * np.ones(3), cover)
    ridge, leaves = _skyline(rng, columns, 1.0), _skyline(rng, columns, 0.5)
    grain = noise(rng, rows, 0.5)
    for distance in range(3, 0, -1):
        height = np.abs(np.roll(ridge, 97 * distance)) * rng.uniform(0.01, 0.05) * (1.6 - 0.4 * distance)
        height = height + 0.02 * np.abs(leaves) / distance
        near = mix_color(pick(rng, "leaf") * 0.6, horizon, 0.27 * distance)
        shade = np.exp(0.35 * np.tile(grain, 2) / distance)[..., None]
        rgb = np.where((elevation[:, None] < height[None])[..., None], near * shade, rgb)
    if rng.random() < 0.25:
        rgb = _town(rng, rgb, elevation, horizon)
    below = mix_color(pick(rng, "soil"), horizon, 0.35)
    rgb = np.where((elevation < -0.004)[:, None, None], below, rgb)
    return _blurred(rgb, 0.6)


def _town(rng: Rng, rgb: Array, elevation: Array, horizon: Array) -> Array:
    columns = rgb.shape[1]
    for _ in range(int(rng.integers(8, 40))):
        left, width = int(rng.integers(columns)), int(rng.integers(12, 52))
        high = rng.uniform(0.03, 0.16)
        color = pick(rng, str(rng.choice(["plaster", "stone", "brick"]))) * rng.uniform(0.4, 0.9)
        color = mix_color(color, horizon, 0.4)
        panes = np.where((np.arange(width) % 5 < 2) & (width > 16), 0.55, 1.0)[None, :, None]
        rows = np.flatnonzero((elevation < high) & (elevation > -0.02))
        stripes = np.where(rows % 6 < 3, 1.0, panes.squeeze()[:, None]).T[..., None]
        rgb[np.ix_(rows, (left + np.arange(width)) % columns)] = color * stripes
    return rgb


def indoor(rng: Rng, center: Values, radius: float) -> tuple[Light, NDArray[np.float32]]:
    """Daylight through a window, or lamps; the panorama is what shiny things mirror.

    Args:
        rng: draws the light.
        center, radius: ball that shadows are computed for.

    Returns:
        The light, and the panorama [512, 1024, 3].
    """
    sunny = rng.random() < 0.4
    warm = np.array([1.0, rng.uniform(0.78, 0.95), rng.uniform(0.55, 0.85)])
    azimuth = rng.random() * 2 * np.pi
    fill = mix_color([0.50, 0.50, 0.52], warm * 0.5, rng.random()) * rng.uniform(0.6, 1.3)
    light = Light(
        _direction(azimuth, rng.uniform(0.5, 0.9) if sunny else rng.uniform(0.6, 1.3)),
        warm * (rng.uniform(1.2, 2.2) if sunny else rng.uniform(0.4, 0.9)),
        fill,
        fill * rng.uniform(0.65, 0.95) * np.array([1.0, 0.92, 0.82]),
        float(rng.uniform(0.006, 0.015) if sunny else rng.uniform(0.03, 0.08)),
        int(rng.integers(1, 4)) if sunny else 0,
        0.0,
        np.asarray(center, float),
        radius,
    )
    rows, columns = _ROWS, 2 * _ROWS
    height = np.linspace(0.5, 0.12, rows)[:, None]
    rgb = np.broadcast_to((height * fill.mean() * 1.2)[..., None] * warm, (rows, columns, 3)).copy()
    left = int(azimuth / (2 * np.pi) * columns)
    window = np.ix_(np.arange(rows // 5, rows // 2), (left + np.arange(-80, 80)) % columns)
    rgb[window] = 1.4
    return light, _blurred(rgb, 3.0)
