"""What a world is made of: placed unit shapes, triangle meshes, and the builder that collects them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learn2splat.data.procedural.arrays import Array, Values
from learn2splat.data.procedural.geometry import INTERSECT
from learn2splat.data.procedural.meshes import Mesh

IDENTITY = np.eye(3)


@dataclass(frozen=True)
class Finish:
    """How a surface is painted.

    Args:
        texture: index into the world's textures.
        tile: world units that one repeat of the texture covers; ``(u, v)`` or one number.
        tint: linear RGB factor of the texture's albedo.
        gloss: 0 (matt) .. 1 (mirror-like highlight).
        casts: whether it throws shadows.
        glow: emitted light, in units of albedo under full sun (windows, lamps).
    """

    texture: int
    tile: Values = 1.0
    tint: Values = (1.0, 1.0, 1.0)
    gloss: float = 0.1
    casts: bool = True
    glow: float = 0.0


@dataclass(frozen=True)
class Placed:
    """N shapes of one family.

    Args:
        family: "triangle" or a key of ``geometry.INTERSECT``.
        rotation: [N, 3, 3] world_from_local (unit shapes) or [N, 3, 3] vertices in rows (triangles).
        center: [N, 3] in world units (zero for triangles).
        size: [N, 3] half-axes (one for triangles).
        texture: [N] int.
        tile: [N, 2], tint: [N, 3], gloss: [N], glow: [N], offset: [N, 2] texture offset in repeats.
        casts: [N] bool.
        corner_uv: [N, 3, 2] in repeats, corner_normal: [N, 3, 3]; triangles only.
    """

    family: str
    rotation: Array
    center: Array
    size: Array
    texture: NDArray[np.int64]
    tile: Array
    tint: Array
    gloss: Array
    glow: Array
    offset: Array
    casts: NDArray[np.bool_]
    corner_uv: Array | None = None
    corner_normal: Array | None = None

    def __len__(self) -> int:
        return self.center.shape[0]


_FIELDS = ("rotation", "center", "size", "texture", "tile", "tint", "gloss", "glow", "offset", "casts")


@dataclass
class Builder:
    """Collects shapes; arrays broadcast to the number of centres given."""

    rng: np.random.Generator
    parts: dict[str, list[dict[str, Array]]] = field(default_factory=dict)

    def add(
        self, family: str, center: Values, size: Values, finish: Finish, rotation: Values = IDENTITY, **over: Values
    ) -> None:
        """Add one or N shapes.

        Args:
            family: a key of ``geometry.INTERSECT``.
            center: [3] or [N, 3]; size: half-axes, number, [3] or [N, 3]; rotation: [3, 3] or [N, 3, 3].
            finish: paint; ``over`` may replace its ``tint`` by [N, 3], or give ``offset`` [2].
        """
        center = np.atleast_2d(np.asarray(center, float))
        count = center.shape[0]
        size = np.asarray(size, float)
        offset = over.get("offset")
        self._append(
            family,
            count,
            finish,
            center=center,
            size=np.broadcast_to(size if size.ndim else np.full(3, size), (count, 3)),
            rotation=np.broadcast_to(np.asarray(rotation, float), (count, 3, 3)),
            tint=np.broadcast_to(np.asarray(over.get("tint", finish.tint), float), (count, 3)),
            offset=self.rng.random((count, 2)) if offset is None else np.broadcast_to(offset, (count, 2)),
        )

    def add_mesh(
        self,
        mesh: Mesh,
        finish: Finish,
        center: Values = (0, 0, 0),
        rotation: Values = IDENTITY,
        scale: Values = 1.0,
    ) -> None:
        """Add a mesh, placed by ``rotation @ (scale * vertex) + center``; its uv are world units before scaling."""
        rotation = np.asarray(rotation, float)
        vertices = (mesh.vertices * np.asarray(scale, float)) @ rotation.T + np.asarray(center, float)
        normals = (mesh.normals / np.asarray(scale, float)) @ rotation.T
        count = len(mesh.faces)
        factor = float(np.mean(np.broadcast_to(np.asarray(scale, float), (3,))))
        tile = np.broadcast_to(np.asarray(finish.tile, float), (2,))
        self._append(
            "triangle",
            count,
            finish,
            center=np.zeros((count, 3)),
            size=np.ones((count, 3)),
            rotation=vertices[mesh.faces],
            tint=np.broadcast_to(np.asarray(finish.tint, float), (count, 3)),
            offset=np.zeros((count, 2)),
            corner_uv=mesh.uv[mesh.faces] * factor / tile,
            corner_normal=normals[mesh.faces],
        )

    def _append(self, family: str, count: int, finish: Finish, **arrays: Array) -> None:
        arrays["texture"] = np.full(count, finish.texture)
        arrays["tile"] = np.broadcast_to(np.asarray(finish.tile, float), (count, 2))
        arrays["gloss"] = np.full(count, float(finish.gloss))
        arrays["glow"] = np.full(count, float(finish.glow))
        arrays["casts"] = np.full(count, finish.casts)
        self.parts.setdefault(family, []).append(arrays)

    def placed(self) -> list[Placed]:
        """Everything added so far, one entry per family, in a fixed order."""
        result = []
        for family in (*INTERSECT, "triangle"):
            if family not in self.parts:
                continue
            names = _FIELDS + (("corner_uv", "corner_normal") if family == "triangle" else ())
            joined = {name: np.concatenate([part[name] for part in self.parts[family]]) for name in names}
            result.append(Placed(family, **joined))
        return result
