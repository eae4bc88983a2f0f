"""Printed textures: pages of text, book covers, pictures and flowered wallpaper."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from learn2splat.data.procedural.arrays import Rng
from learn2splat.data.procedural.palette import pick
from learn2splat.data.procedural.textures import assemble, mix, noise

_LETTERS = "abcdefghijklmnoprstuvwxyzABCDEFGHKLMNPRST0123456789"
_KINDS = ("vivid", "paint", "fabric", "plaster", "metal", "clay")


def _word(rng: Rng, low: int = 2, high: int = 9) -> str:
    return "".join(rng.choice(list(_LETTERS), int(rng.integers(low, high))))


def _text(rng: Rng, n: int, box: tuple[int, int, int, int], size: float) -> NDArray[np.float64]:
    """Coverage [n, n] in 0..1 of lines of made-up words in ``box`` (x0, y0, x1, y1)."""
    ink = np.zeros((n, n), np.uint8)
    x0, y0, x1, y1 = box
    step = max(int(26 * size), 5)
    for y in range(y0 + step, y1, step):
        line = " ".join(_word(rng) for _ in range(max(2, int((x1 - x0) / (90 * size)))))
        cv2.putText(ink, line, (x0, y), int(rng.integers(0, 5)), size, 255, 2 if size > 0.9 else 1, cv2.LINE_AA)
    ink[:, x1:] = 0
    return ink / 255.0


def page(rng: Rng, n: int) -> NDArray[np.float32]:
    """Paper with a headline, columns of text and a picture."""
    pad = n // 14
    ink = _text(rng, n, (pad, pad, n - pad, pad + n // 6), n / 230)
    ink += 0.8 * _text(rng, n, (pad, n // 4, n - pad, n - pad), n / 700)
    paper = np.broadcast_to(pick(rng, "plaster", spread=0.05), (n, n, 3)).copy()
    x, y = rng.integers(pad, n // 2, 2)
    picture = np.exp(noise(rng, n, 1.5) * 0.6)[..., None] * pick(rng, str(rng.choice(_KINDS)))
    paper[y : y + n // 3, x : x + n // 3] = picture[: n // 3, : n // 3]
    return assemble(mix(paper, np.full(3, 0.02), ink)[::-1], noise(rng, n, 1.0), 0.01)


def cover(rng: Rng, n: int) -> NDArray[np.float32]:
    """A book cover, label or poster: blocks of colour, discs, a title."""
    image = np.broadcast_to(pick(rng, str(rng.choice(_KINDS))), (n, n, 3)).astype(np.float32).copy()
    for _ in range(int(rng.integers(3, 9))):
        color = tuple(float(v) for v in pick(rng, str(rng.choice(_KINDS))))
        x, y = (int(v) for v in rng.integers(0, n, 2))
        a, b = (int(v) for v in rng.integers(n // 16, n // 3, 2))
        if rng.random() < 0.5:
            cv2.ellipse(image, (x, y), (a, b), float(rng.random() * 180), 0, 360, color, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + a, y + b), color, -1)
    top = int(rng.integers(n // 16, n // 2))
    ink = _text(rng, n, (n // 14, top, n, top + n // 4), n / 160)
    ink += _text(rng, n, (n // 14, n - n // 5, n, n - n // 20), n / 420)
    light = 0.7 if image.mean() < 0.3 else 0.02
    return assemble(mix(image, np.full(3, light), ink)[::-1], noise(rng, n, 1.0), 0.01)


def picture(rng: Rng, n: int) -> NDArray[np.float32]:
    """A landscape painting: sky, ridges, fields and brush strokes."""
    y, x = np.mgrid[0:n, 0:n] / n
    sky = pick(rng, str(rng.choice(["paint", "plaster", "metal"])))
    rgb = mix(sky, np.full(3, 0.7), y * 1.2) * np.exp(0.25 * noise(rng, n, 1.6))[..., None]
    for level in np.linspace(0.4, 0.9, int(rng.integers(2, 6))):
        ridge = level + 0.05 * noise(rng, n, 1.6)[0][None] * (1.3 - level)
        field = pick(rng, str(rng.choice(["grass", "soil", "leaf", "stone"]))) * (1.6 - level)
        rgb = np.where((y > ridge)[..., None], field * np.exp(0.35 * noise(rng, n, 0.9))[..., None], rgb)
    frame = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) < 0.06
    rgb = np.where(frame[..., None], pick(rng, str(rng.choice(["dark_wood", "wood", "plaster", "metal"]))), rgb)
    # v grows upwards on walls
    return assemble(rgb[::-1], noise(rng, n, 0.7), 0.04)


def wallpaper(rng: Rng, n: int) -> NDArray[np.float32]:
    """Flowers and leaves strewn over a pale ground."""
    image = np.broadcast_to(pick(rng, "plaster", spread=0.06), (n, n, 3)).astype(np.float32).copy()
    flower, leaf = (
        pick(rng, str(rng.choice(["vivid", "clay", "fabric"]))),
        pick(rng, str(rng.choice(["leaf", "stone"]))),
    )
    for _ in range(int(rng.integers(10, 26))):
        center, radius = rng.random(2) * n, n * rng.uniform(0.03, 0.09)
        bloom = rng.random() < 0.5
        for petal in range(int(rng.integers(8, 22))):
            angle = petal * 2.4
            reach = radius * np.sqrt(petal / 20) * 1.2
            color = (flower if bloom else leaf) * np.exp(rng.normal(0, 0.35))
            axes = (int(radius * rng.uniform(0.25, 0.5)) + 1, int(radius * rng.uniform(0.1, 0.3)) + 1)
            place = center + reach * np.array([np.cos(angle), np.sin(angle)])
            for wrap in ((0, 0), (n, 0), (0, n), (n, n)):
                at = tuple(int(v) for v in (place + n / 4) % n - np.array(wrap) + 0.5)
                cv2.ellipse(
                    image, at, axes, float(np.degrees(angle)), 0, 360, tuple(map(float, color)), -1, cv2.LINE_AA
                )
    return assemble(image * np.exp(0.04 * noise(rng, n, 0.8))[..., None], noise(rng, n, 0.8), 0.03)
