"""Tileable surface textures: linear albedo and bump slopes, drawn from a generator.

Every painter is ``(rng, n) -> [n, n, 5]`` float32: linear RGB, then the slope of the surface along u and v.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from learn2splat.data.procedural.arrays import Array, Rng, Values
from learn2splat.data.procedural.palette import linear, pick

Painter = Callable[[Rng, int], NDArray[np.float32]]


def noise(rng: Rng, n: int, power: float = 1.0, stretch: float = 1.0, low: float = 0.0) -> Array:
    """Tileable Gaussian noise [n, n], zero mean, unit variance, with an amplitude spectrum 1 / f^power.

    Args:
        stretch: above 1 the features are longer along v (rows).
        low: frequencies (cycles per tile) below this are left out.
    """
    fy = np.fft.fftfreq(n)[:, None] * n * stretch
    fx = np.fft.rfftfreq(n)[None] * n
    f = np.hypot(fx, fy)
    gain = np.where(f > low, np.maximum(f, 1e-6) ** -power, 0.0)
    gain[0, 0] = 0.0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * gain, s=(n, n))
    return field / (field.std() + 1e-12)


def assemble(rgb: Values, height: Array, relief: float) -> NDArray[np.float32]:
    """Albedo [n, n, 3] and the slopes of ``height``, scaled so that their standard deviation is ``relief``."""
    du = np.roll(height, -1, 1) - np.roll(height, 1, 1)
    dv = np.roll(height, -1, 0) - np.roll(height, 1, 0)
    scale = relief / (np.hypot(du, dv).std() + 1e-9)
    slopes = np.clip(np.stack([du, dv], -1) * scale, -1.5, 1.5)
    return np.concatenate([np.clip(rgb, 0.004, 0.95), slopes], -1).astype(np.float32)


def shaded(color: Values, field: Array, contrast: float) -> Array:
    """``color`` times exp(contrast * field): variation as pigments and stains have it."""
    return np.asarray(color) * np.exp(contrast * field)[..., None]


def mix(a: Values, b: Values, weight: Array) -> Array:
    """Blend from ``a`` to ``b`` by ``weight`` [n, n] in 0..1."""
    weight = np.clip(weight, 0, 1)[..., None]
    return np.asarray(a) * (1 - weight) + np.asarray(b) * weight


def cells(rng: Rng, n: int, count: int) -> tuple[Array, NDArray[np.int64]]:
    """Tileable Voronoi cells: distance to the nearest seed in cell sizes [n, n], and its index."""
    corner = np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2)
    x, y = ((corner + rng.random((count * count, 2))) * n / count).astype(int).T % n
    seeds = np.full((n, n), -1)
    seeds[y, x] = np.arange(count * count)
    margin = min(n, 2 * n // count + 2)
    padded = np.pad(seeds, margin, mode="wrap")
    labels_of = padded[padded >= 0]
    distance, labels = cv2.distanceTransformWithLabels(
        (padded < 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inner = slice(margin, margin + n)
    index = labels_of[labels[inner, inner] - 1]
    return distance[inner, inner].astype(float) * (count / n), index


def _soften(field: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(np.pad(field, 16, mode="wrap"), (0, 0), sigma)[16:-16, 16:-16], float)


def plain(kind: str, grain: float = 0.05, relief: float = 0.05) -> Painter:
    """Nearly one colour: faint stains and fine grain, as painted walls, ceramics and plastics have."""

    def paint(rng: Rng, n: int) -> NDArray[np.float32]:
        field = noise(rng, n, 1.2) + 0.3 * noise(rng, n, 0.2)
        return assemble(shaded(pick(rng, kind), field, grain), noise(rng, n, 0.8), relief)

    return paint


def rough(kind: str, contrast: float = 0.3, power: float = 0.9, relief: float = 0.25) -> Painter:
    """1/f mottling between two colours: stone, concrete, soil, asphalt, fur from afar."""

    def paint(rng: Rng, n: int) -> NDArray[np.float32]:
        field = noise(rng, n, power)
        rgb = mix(pick(rng, kind), pick(rng, kind), 0.5 + 0.35 * noise(rng, n, 1.4))
        return assemble(rgb * np.exp(contrast * field)[..., None], field + 0.5 * noise(rng, n, 0.4), relief)

    return paint


def wood(rng: Rng, n: int, kind: str = "wood", planks: int | None = None) -> NDArray[np.float32]:
    """Boards with growth rings and fibres, running along v."""
    planks = int(rng.integers(1, 7)) if planks is None else planks
    warp = noise(rng, n, 2.0, 5.0)
    x = np.mgrid[0:n, 0:n][1] / n
    board = np.floor(x * planks).astype(int) % planks
    shift = rng.random(planks)[board] * 9
    rings = np.sin(2 * np.pi * (x * rng.integers(6, 16) + 0.5 * warp + shift))
    fibre = noise(rng, n, 0.6, 20.0)
    tone = rng.normal(0, 0.16, planks)[board] + rng.uniform(0.05, 0.2) * rings + 0.1 * fibre
    seam = np.abs((x * planks) % 1 - 0.5) > 0.5 - 0.008 * planks
    seam &= planks > 1
    rgb = shaded(pick(rng, kind), tone, 1.0)
    return assemble(np.where(seam[..., None], rgb * 0.35, rgb), 0.3 * fibre - 2.0 * seam, 0.06)


def dark_wood(rng: Rng, n: int) -> NDArray[np.float32]:
    """Dark stained wood in one piece."""
    return wood(rng, n, "dark_wood", 1)


def _grid(n: int, columns: int, rows: int, stagger: float, gap: float) -> tuple[NDArray[np.int64], Array]:
    """Cell index [n, n] and a joint mask in 0..1 of a (staggered) grid of bricks or tiles."""
    y, x = np.mgrid[0:n, 0:n] / n
    row = np.floor(y * rows).astype(int)
    x = (x * columns + stagger * (row % 2)) % columns
    fx, fy = x % 1, (y * rows) % 1
    edge = np.minimum(np.minimum(fx, 1 - fx) / columns, np.minimum(fy, 1 - fy) / rows) * n
    return row * columns + x.astype(int), np.clip(1.2 - edge / gap, 0, 1)


def bricks(rng: Rng, n: int, kind: str = "brick") -> NDArray[np.float32]:
    """Courses of bricks with mortar."""
    columns, rows = int(rng.integers(3, 6)), 2 * int(rng.integers(4, 8))
    index, joint = _grid(n, columns, rows, 0.5, max(1.0, n / 110))
    tones = np.exp(rng.normal(0, 0.22, (columns * rows, 1))) * pick(rng, kind, columns * rows, 0.05) ** 0.5
    face = tones[index] * np.sqrt(pick(rng, kind))
    face = face * np.exp(0.18 * noise(rng, n, 0.7))[..., None]
    mortar = shaded(pick(rng, "stone"), noise(rng, n, 0.5), 0.12)
    return assemble(mix(face, mortar, joint), 0.4 * noise(rng, n, 0.8) - 4 * joint, 0.22)


def blocks(rng: Rng, n: int) -> NDArray[np.float32]:
    """Ashlar masonry or paving stones."""
    return bricks(rng, n, "stone")


def roof(rng: Rng, n: int) -> NDArray[np.float32]:
    """Rows of roof tiles with a shaded lower edge."""
    columns, rows = int(rng.integers(6, 12)), 2 * int(rng.integers(4, 8))
    index, joint = _grid(n, columns, rows, 0.5, max(1.0, n / 160))
    y = (np.mgrid[0:n, 0:n][0] / n * rows) % 1
    tones = np.exp(rng.normal(0, 0.15, columns * rows))[index] * (0.55 + 0.5 * y)
    rgb = shaded(pick(rng, "roof"), 0.15 * noise(rng, n, 1.0), 1.0) * tones[..., None]
    return assemble(rgb * (1 - 0.5 * joint)[..., None], y + 0.2 * noise(rng, n, 0.8), 0.2)


def tiles(rng: Rng, n: int) -> NDArray[np.float32]:
    """Ceramic tiles: plain, checkered or with a printed motif."""
    count = 2 * int(rng.integers(1, 4))
    index, joint = _grid(n, count, count, 0.0, max(1.0, n / 140))
    one, two = pick(rng, "plaster"), pick(rng, str(rng.choice(["stone", "plaster", "paint", "metal"])))
    checker = ((index // count + index % count) % 2).astype(float)
    style = rng.integers(3)
    weight = checker if style == 0 else np.zeros((n, n)) if style == 1 else _motif(rng, n, count)
    rgb = mix(one, two, weight) * np.exp(0.05 * noise(rng, n, 1.0) + rng.normal(0, 0.05, count**2)[index])[..., None]
    return assemble(mix(rgb, pick(rng, "stone") * 0.7, joint), -2.0 * joint + 0.05 * noise(rng, n, 1.0), 0.08)


def _motif(rng: Rng, n: int, count: int) -> Array:
    y, x = (np.mgrid[0:n, 0:n] / n * count) % 1 - 0.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    wave = np.cos(angle * 4) * rng.uniform(0.03, 0.1) + np.cos(angle * 8) * rng.uniform(0.0, 0.05)
    return np.clip((np.sin((radius + wave) * rng.uniform(14, 30)) + 0.2) * 3, 0, 1)


def carpet(rng: Rng, n: int) -> NDArray[np.float32]:
    """Woven or looped pile: strong fine grain, hardly any large structure."""
    loops, index = cells(rng, n, n // int(rng.integers(5, 9)))
    tone = rng.normal(0, 0.14, index.max() + 1)[index] - 0.5 * np.minimum(loops, 1.0) + 0.06 * noise(rng, n, 1.2)
    return assemble(shaded(pick(rng, str(rng.choice(["stone", "fabric", "plaster"]))), tone, 1.0), -loops, 0.35)


def fabric(rng: Rng, n: int) -> NDArray[np.float32]:
    """Stripes or tartan with a visible weave."""
    y, x = np.mgrid[0:n, 0:n] / n
    rgb = np.broadcast_to(pick(rng, "fabric"), (n, n, 3))
    for axis in (x, y)[: int(rng.integers(1, 3))]:
        for _ in range(int(rng.integers(1, 4))):
            period, width, phase = int(rng.integers(1, 6)), rng.uniform(0.05, 0.3), rng.random()
            rgb = mix(
                rgb,
                pick(rng, str(rng.choice(["fabric", "plaster", "vivid"]))),
                ((axis * period + phase) % 1 < width) * 0.7,
            )
    weave = np.sin(x * n * np.pi / 2) * np.sin(y * n * np.pi / 2)
    return assemble(rgb * np.exp(0.1 * weave + 0.1 * noise(rng, n, 0.4))[..., None], weave + noise(rng, n, 0.8), 0.15)


def foliage(kind: str, density: int = 40) -> Painter:
    """Overlapping blades or leaves in many greens: lawns, hedges, forest floors."""

    def paint(rng: Rng, n: int) -> NDArray[np.float32]:
        height = np.zeros((n, n))
        rgb = np.broadcast_to(pick(rng, "soil") * 0.6, (n, n, 3)).copy()
        species = pick(rng, kind)
        for layer in range(3):
            loops, index = cells(rng, n, int(density * (0.7 + 0.3 * layer)))
            mates = pick(rng, kind, index.max() + 1, 0.3) ** 0.4 * species**0.6
            colors = mates * (0.5 + 0.25 * layer)
            shown = (rng.random(index.max() + 1) < 0.6)[index] & (loops < 0.62)
            rgb = np.where(shown[..., None], colors[index] * (1.2 - 0.7 * loops)[..., None], rgb)
            height = np.where(shown, layer - loops, height)
        stain = mix(np.ones(3), (pick(rng, kind) / pick(rng, kind).mean()) ** 0.5, 0.3 + 0.12 * noise(rng, n, 1.5))
        return assemble(rgb * stain * np.exp(0.2 * noise(rng, n, 0.3))[..., None], height, 0.3)

    return paint


def gravel(rng: Rng, n: int) -> NDArray[np.float32]:
    """Pebbles of several stones."""
    loops, index = cells(rng, n, int(rng.integers(18, 48)))
    colors = pick(rng, str(rng.choice(["stone", "soil"])), index.max() + 1, 0.25)
    gap = np.clip((loops - 0.5) * 4, 0, 1)
    rgb = mix(colors[index] * np.exp(0.12 * noise(rng, n, 0.6))[..., None], pick(rng, "soil") * 0.35, gap)
    return assemble(rgb, -(loops**2), 0.4)


def bark(rng: Rng, n: int) -> NDArray[np.float32]:
    """Ridges and cracks along v, with lichen."""
    ridges = np.abs(noise(rng, n, 1.2, 3.0)) + 0.4 * np.abs(noise(rng, n, 1.0, 2.0))
    rgb = shaded(pick(rng, "bark"), ridges - 0.9, 0.55) * np.exp(0.2 * noise(rng, n, 0.3))[..., None]
    lichen = np.clip(noise(rng, n, 1.3) * 2 - 3.0, 0, 0.7)
    return assemble(mix(rgb, pick(rng, "stone"), lichen), ridges + 0.15 * noise(rng, n, 0.4), 0.4)


def skin(rng: Rng, n: int) -> NDArray[np.float32]:
    """Fruit peel: smooth with speckles and bruises."""
    loops, index = cells(rng, n, 26)
    spots = (rng.random(index.max() + 1) < 0.3)[index] & (loops < rng.uniform(0.15, 0.35))
    rgb = shaded(pick(rng, "fruit"), noise(rng, n, 1.5), 0.12)
    rgb = mix(
        rgb, rgb * 0.35, np.clip(_soften(spots.astype(float), 0.8) + np.clip(noise(rng, n, 1.4) - 2.2, 0, 1), 0, 1)
    )
    return assemble(rgb, noise(rng, n, 1.0), 0.05)


def marble(rng: Rng, n: int) -> NDArray[np.float32]:
    """Veined polished stone."""
    vein = np.exp(-3.0 * np.abs(noise(rng, n, 1.8))) + 0.5 * np.exp(-5.0 * np.abs(noise(rng, n, 1.5)))
    rgb = mix(pick(rng, str(rng.choice(["plaster", "stone", "dark_wood"]))), pick(rng, "stone") * 0.5, vein)
    return assemble(rgb * np.exp(0.06 * noise(rng, n, 0.8))[..., None], noise(rng, n, 1.2), 0.02)


def glass(rng: Rng, n: int) -> NDArray[np.float32]:
    """Dark panes with a hint of a room behind them."""
    room = np.clip(0.5 + 0.4 * noise(rng, n, 2.0), 0, 1)
    return assemble(mix(linear((14, 18, 24)), linear((70, 72, 70)), room**3), noise(rng, n, 2.0), 0.01)


def glow(rng: Rng, n: int) -> NDArray[np.float32]:
    """White, for lamps and bright window panes."""
    return assemble(shaded(np.full(3, 0.8), noise(rng, n, 2.0), 0.05), noise(rng, n, 2.0), 0.0)
