"""A world: shapes, textures, light and far surroundings, ready to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learn2splat.data.procedural.arrays import Array, Values
from learn2splat.data.procedural.primitives import Builder, Finish, Placed
from learn2splat.data.procedural.textures import Painter


@dataclass(frozen=True)
class Light:
    """Illumination; colours are linear RGB of light that makes a white matt surface 1.

    Args:
        sun_direction: [3] unit, towards the sun or main lamp.
        sun: [3] its colour; softness: penumbra as a fraction of the lit region's radius.
        sky: [3] light from above; ground: [3] light bounced from below.
        blinds: 0 open, else number of window panes through which the sun falls.
        haze: extinction per world unit towards the horizon's colour.
        center, radius: ball that shadows are computed for.
    """

    sun_direction: Array
    sun: Array
    sky: Array
    ground: Array
    softness: float
    blinds: int
    haze: float
    center: Array
    radius: float


@dataclass(frozen=True)
class World:
    """Everything that is there, whoever looks at it.

    Args:
        placed: shapes by family.
        textures: [n, n, 5] arrays that the shapes' ``texture`` indexes.
        light: illumination.
        panorama: [rows, 4 * rows / 2, 3] linear RGB of the far surroundings, equirectangular, zenith first.
        focus: [3] what a photographer would aim at; reach: distance scale of the camera path.
        elevation: usual angles in radians from which a ring of cameras looks down on the focus.
    """

    placed: Sequence[Placed]
    textures: Sequence[NDArray[np.float32]]
    light: Light
    panorama: NDArray[np.float32]
    focus: Array
    reach: float
    elevation: tuple[float, float] = (0.25, 0.6)


@dataclass
class Stage:
    """A world under construction: the builder and the textures it may refer to."""

    rng: np.random.Generator
    textures: list[NDArray[np.float32]] = field(default_factory=list)
    build: Builder = field(init=False)

    def __post_init__(self) -> None:
        self.build = Builder(self.rng)

    def finish(self, painter: Painter, tile: float = 1.0, side: int = 256, **finish: Values) -> Finish:
        """Paint a new texture of ``side`` texels and return a finish that uses it."""
        self.textures.append(painter(self.rng, side))
        return Finish(len(self.textures) - 1, tile, **finish)

    def one_of(self, *options: Painter) -> Painter:
        """One of ``options``, drawn."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """A biased coin."""
        return bool(self.rng.random() < probability)


def up(height: float) -> Array:
    """[3] the vector that rises by ``height``."""
    return np.array([0.0, 0.0, height])


def turn(angle: float) -> Array:
    """[3, 3] rotation about z by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def tilt(angle: float) -> Array:
    """[3, 3] rotation about x by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def random_rotations(rng: np.random.Generator, count: int) -> Array:
    """[count, 3, 3] uniformly random rotations."""
    w, x, y, z = (q := rng.normal(size=(4, count))) / np.linalg.norm(q, axis=0)
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )
