"""Things that stand about: furniture, books, vessels, fruit, plants, trees, houses, cars, fences."""

from __future__ import annotations

import numpy as np

from learn2splat.data.procedural import meshes
from learn2splat.data.procedural.arrays import Array, Values
from learn2splat.data.procedural.palette import pick
from learn2splat.data.procedural.primitives import Finish
from learn2splat.data.procedural.prints import cover, page, picture
from learn2splat.data.procedural.textures import (
    bark,
    dark_wood,
    fabric,
    foliage,
    glass,
    marble,
    plain,
    roof,
    rough,
    skin,
    tiles,
    wood,
)
from learn2splat.data.procedural.world import Stage, random_rotations, tilt, turn, up

UPRIGHT = tilt(np.pi / 2)
"""Takes z to -y: for discs and cylinders that face along y."""


class Props:
    """Places things on a stage; paints that many things share are drawn once."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.rng, self.build = stage, stage.rng, stage.build
        self._shared: dict[str, Finish] = {}

    def shared(self, name: str) -> Finish:
        """One of the paints that many things share, made on first use."""
        painters = {
            "wood": (wood, 0.9, 0.25),
            "dark": (dark_wood, 0.8, 0.4),
            "white": (plain("plaster", 0.03), 1.0, 0.2),
            "cloth": (fabric, 0.5, 0.05),
            "ceramic": (self.stage.one_of(plain("clay", 0.08), plain("plaster", 0.05), tiles), 0.25, 0.7),
            "metal": (plain("metal", 0.1, 0.02), 0.5, 0.8),
            "bark": (bark, 0.8, 0.05),
            "leaf": (rough("plaster", 0.15, 0.8, 0.15), 0.3, 0.25),
            "bush": (foliage("leaf", 18), 0.9, 0.1),
            "skin": (skin, 0.25, 0.35),
            "cover": (cover, 1.0, 0.4),
            "page": (page, 1.0, 0.15),
            "glass": (glass, 2.5, 1.0),
            "stone": (rough("stone", 0.25), 0.8, 0.1),
            "marble": (marble, 0.7, 0.6),
            "roof": (roof, 2.5, 0.1),
            "neutral": (plain("plaster", 0.05, 0.01), 1.0, 0.3),
        }
        if name not in self._shared:
            painter, tile, gloss = painters[name]
            side = 128 if name in ("white", "metal", "leaf", "neutral", "glass") else 256
            self._shared[name] = self.stage.finish(painter, tile, side, gloss=gloss)
        return self._shared[name]

    def box(self, low: Values, high: Values, finish: Finish, **over: object) -> None:
        """An axis-aligned box from ``low`` to ``high``."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        self.build.add("box", (low + high) / 2, np.maximum(high - low, 1e-3) / 2, finish, **over)

    def fitted(self, center: Values, half: Values, angle: float, finish: Finish, tint: Values = 1.0) -> None:
        """A box with the texture stretched once over its largest face."""
        half = np.asarray(half, float)
        thin = int(np.argmin(half))
        tile = (2 * half[1 if thin == 0 else 0], 2 * half[1 if thin == 2 else 2])
        paint = Finish(finish.texture, tile, np.broadcast_to(tint, 3), finish.gloss)
        self.build.add("box", center, half, paint, turn(angle), offset=(0.5, 0.5))

    def table(self, top: float, half: Values, center: Values = (0, 0), round_top: bool = False) -> None:
        """A table with four legs; ``top`` is the height of its surface."""
        finish = self.stage.finish(self.stage.one_of(wood, wood, marble, fabric, plain("paint")), 1.1, gloss=0.35)
        (hx, hy), (cx, cy) = half, center
        if round_top:
            self.build.add("cylinder", (cx, cy, top - 0.02), (hx, hx, 0.02), finish)
            self.build.add("cylinder", (cx, cy, top / 2 - 0.02), (0.06, 0.06, top / 2 - 0.02), finish)
            return
        self.box((cx - hx, cy - hy, top - 0.04), (cx + hx, cy + hy, top), finish)
        signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        legs = np.column_stack([signs * (np.array([hx, hy]) - 0.06) + (cx, cy), np.full(4, top / 2 - 0.02)])
        self.build.add("box", legs, (0.03, 0.03, top / 2 - 0.02), finish)

    def books(self, at: Values, count: int) -> None:
        """A pile of books."""
        x, y, z = at
        angle = self.rng.random() * 6
        for _ in range(count):
            half = np.array([self.rng.uniform(0.06, 0.09), self.rng.uniform(0.09, 0.13), self.rng.uniform(0.006, 0.02)])
            z += half[2]
            tint = 0.4 + pick(self.rng, "vivid") * 1.6
            self.fitted((x, y, z), half, angle + self.rng.normal(0, 0.2), self.shared("cover"), tint)
            z += half[2]

    def shelf_row(self, start: Values, length: float, along: int = 0) -> None:
        """Books standing side by side along axis ``along``."""
        count = int(length / 0.035)
        width = self.rng.uniform(0.008, 0.02, count)
        place = np.cumsum(2 * width) - width
        keep = place < length
        place, width = place[keep], width[keep]
        height = self.rng.uniform(0.09, 0.15, len(width))
        centers = np.tile(np.asarray(start, float), (len(width), 1))
        centers[:, along] += place
        centers[:, 2] += height
        half = np.column_stack([width, np.full(len(width), 0.1), height])
        half = half if along == 0 else half[:, [1, 0, 2]]
        kinds = ["vivid", "fabric", "plaster", "paint"]
        tint = np.concatenate([pick(self.rng, str(self.rng.choice(kinds)), 1) for _ in width]) * 1.6
        self.build.add("box", centers, half, self.shared("neutral"), tint=tint)

    def vessel(self, at: Values, height: float, finish: Finish | None = None) -> float:
        """A vase, mug, jar or bowl; returns the radius at its rim."""
        s = np.linspace(0, 1, 18)
        a, b, c = self.rng.uniform(0.25, 0.6), self.rng.uniform(-0.2, 0.25), self.rng.uniform(0.5, 1.6)
        radius = height * np.clip(a + b * np.sin(c * np.pi * s + self.rng.random() * 3), 0.12, 0.8)
        profile_r = np.concatenate([[1e-3], radius, radius[::-1][:10] * 0.9, [1e-3]])
        profile_z = np.concatenate([[0], s * height, s[::-1][:10] * height, [0.45 * height]])
        self.build.add_mesh(meshes.lathe(profile_r, profile_z, 28), finish or self.shared("ceramic"), at)
        return float(radius[-1])

    def fruit(self, at: Values, count: int, size: float = 0.04) -> None:
        """Round fruit lying about."""
        spread = self.rng.normal(0, 2.2 * size * np.sqrt(count), (count, 2))
        radius = size * self.rng.uniform(0.7, 1.15, count)
        centers = np.column_stack([spread, radius * 0.95]) + np.asarray(at)
        shape = radius[:, None] * self.rng.uniform(0.88, 1.0, (count, 3))
        tint = np.exp(self.rng.normal(0, 0.25, (count, 3)))
        self.build.add("sphere", centers, shape, self.shared("skin"), random_rotations(self.rng, count), tint=tint)

    def bananas(self, at: Values, count: int, length: float) -> None:
        """A hand of bent fruit."""
        for i in range(count):
            mesh = meshes.bent(length, length * 0.1, self.rng.uniform(0.9, 1.5), 18, 14)
            rotation = turn(0.28 * i + self.rng.normal(0, 0.05)) @ tilt(self.rng.uniform(-0.9, -0.2))
            lift = np.array([0.06 * length * (i % 2), 0.12 * length * i, length * (0.11 + 0.06 * (i % 2))])
            self.build.add_mesh(mesh, self.shared("skin"), np.asarray(at) + lift, rotation)

    def leaves(self, centers: Array, size: float, kind: str = "leaf", facing: float = 0.0, shape: str = "leaf") -> None:
        """One small leaf at each of ``centers`` [N, 3]; ``facing`` > 0 turns them towards the sky."""
        count = len(centers)
        species = pick(self.rng, kind)
        tint = species**0.8 * pick(self.rng, kind, count, 0.3) ** 0.2 * 1.6
        axes = size * self.rng.uniform(0.6, 1.3, (count, 1)) * np.array([0.45, 1.0, 1.0])
        rotation = random_rotations(self.rng, count)
        if facing:
            normal = rotation[:, :, 2] + np.array([0, 0, facing])
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            side = np.cross(normal, rotation[:, :, 0])
            side /= np.linalg.norm(side, axis=1, keepdims=True)
            rotation = np.stack([side, np.cross(normal, side), normal], -1)
        self.build.add(shape, centers, axes, self.shared("leaf"), rotation, tint=tint)

    def crown(self, center: Values, radii: Values, count: int, size: float, kind: str = "leaf") -> None:
        """A tree crown or bush: leaves in clumps over a dark core."""
        center, radii = np.asarray(center, float), np.broadcast_to(radii, (3,))
        clumps = max(4, count // 40)
        unit = self.rng.normal(size=(clumps, 3))
        seats = unit / np.linalg.norm(unit, axis=1, keepdims=True) * self.rng.uniform(0.35, 0.8, (clumps, 1))
        spread = self.rng.normal(size=(count, 3))
        spread *= 0.32 * self.rng.random((count, 1)) ** 0.2 / np.linalg.norm(spread, axis=1, keepdims=True)
        places = (seats[self.rng.integers(clumps, size=count)] + spread) * radii + center
        self.leaves(places, size, kind, 0.5)
        core = 0.23 * radii * self.rng.uniform(0.6, 1.2, (clumps, 1))
        tint = 1.1 * np.exp(self.rng.normal(0, 0.12, (clumps, 3)))
        self.build.add("sphere", seats * radii + center, core, self.shared("bush"), tint=tint)

    def tree(self, at: Values, height: float, leaves: int = 500) -> None:
        """Trunk, a few limbs and a crown."""
        at = np.asarray(at, float)
        lean = self.rng.normal(0, 0.04 * height, 2)
        s = np.linspace(0, 1, 8)[:, None]
        path = at + s * np.array([*lean, 0.65 * height]) + 0.006 * height * self.rng.normal(size=(8, 3)) * [1, 1, 0]
        thick = height * self.rng.uniform(0.018, 0.032)
        self.build.add_mesh(meshes.tube(path, thick * (1.25 - 0.8 * s[:, 0]), 9), self.shared("bark"))
        for _ in range(3):
            angle, start = self.rng.random() * 6.28, path[5]
            tip = start + height * np.array([0.2 * np.cos(angle), 0.2 * np.sin(angle), 0.22])
            limb = start + np.linspace(0, 1, 5)[:, None] * (tip - start)
            self.build.add_mesh(meshes.tube(limb, thick * np.linspace(0.5, 0.2, 5), 6), self.shared("bark"))
        spread = self.rng.uniform(0.2, 0.32) * height
        size = 1.7 * spread / np.sqrt(leaves) * 2.0
        self.crown(path[-1] + up(0.1 * height), (spread, spread, 0.3 * height), leaves, size)

    def pot_plant(self, at: Values, height: float) -> None:
        """A plant with long leaves in a pot."""
        at = np.asarray(at, float)
        rim = self.vessel(at, 0.4 * height, self.stage.finish(plain("clay", 0.1), 0.5, 128, gloss=0.3))
        count = int(self.rng.integers(60, 160))
        angle, rise = self.rng.random(count) * 6.28, self.rng.random(count) ** 0.6
        reach = rim * (0.3 + self.rng.random(count) * 1.6)
        places = np.column_stack([reach * np.cos(angle), reach * np.sin(angle), (0.42 + 0.6 * rise) * height])
        self.leaves(at + places, 0.1 * height, facing=0.4)
        self.build.add("disc", at + up(0.36 * height), rim * 0.9, self.shared("bark"))
        for _ in range(5):
            bend = self.rng.normal(0, 0.3 * rim, 2)
            path = at + np.linspace(0, 1, 5)[:, None] * np.array([*bend, 0.9 * height])
            self.build.add_mesh(meshes.tube(path, 0.008 * height, 5), self.shared("bark"))

    def framed(self, at: Values, half: Values, angle: float) -> None:
        """A picture on a wall that faces -y when ``angle`` is zero."""
        paint = self.stage.finish(self.stage.one_of(picture, picture, cover), gloss=0.3)
        self.fitted(at, (half[0], 0.015, half[1]), angle, paint)

    def sculpture(self, at: Values, size: float) -> None:
        """A hero object about ``size`` high, of stone, wood, clay or metal."""
        rng = self.rng
        painter = self.stage.one_of(
            dark_wood, marble, rough("stone", 0.3), rough("bark", 0.4), plain("clay", 0.1), skin, wood
        )
        finish = self.stage.finish(painter, size * rng.uniform(0.5, 1.2), gloss=float(rng.choice([0.05, 0.3, 0.6])))
        at = np.asarray(at, float)
        kind = int(rng.integers(4))
        if kind == 0:
            mesh = meshes.knot(0.32 * size, rng.uniform(0.06, 0.1) * size, 2, int(rng.choice([3, 5])))
            self.build.add_mesh(mesh, finish, at + up(0.5 * size), tilt(rng.uniform(0.9, 1.6)))
        elif kind == 1:
            for low, wide in ((0.22, 0.36), (0.52, 0.26), (0.82, 0.18)):
                body = meshes.blob(rng, rng.uniform(0.3, 0.7))
                shift = rng.normal(0, 0.05 * size, 2)
                self.build.add_mesh(body, finish, at + np.array([*shift, low * size]), scale=wide * size)
        elif kind == 2:
            self.build.add_mesh(
                meshes.blob(rng, rng.uniform(0.4, 1.0), 5, 40), finish, at + up(0.42 * size), scale=0.46 * size
            )
        else:
            self.vessel(at, size, finish)
