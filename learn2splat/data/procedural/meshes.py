"""Triangle meshes: height fields, lathes, tubes and lumpy blobs; all with smooth normals and metric uv."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learn2splat.data.procedural.arrays import Array, Values


@dataclass(frozen=True)
class Mesh:
    """Args: vertices [P, 3], normals [P, 3] (any length), uv [P, 2] in world units, faces [F, 3] int."""

    vertices: Array
    normals: Array
    uv: Array
    faces: NDArray[np.int64]


def _grid_faces(rows: int, columns: int) -> NDArray[np.int64]:
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])


def grid_mesh(points: Array, uv: Array | None = None) -> Mesh:
    """A mesh over a grid of points [R, C, 3]; without ``uv`` [R, C, 2] it is arc length along rows and columns."""
    du = np.gradient(points, axis=1)
    dv = np.gradient(points, axis=0)
    wraps = np.allclose(points[:, 0], points[:, -1], atol=1e-9)
    if wraps:  # one-sided differences would leave a visible seam where the grid closes
        du[:, 0] = du[:, -1] = 0.5 * (points[:, 1] - points[:, -2])
    normals = np.cross(du, dv)
    if uv is None:
        step_u = np.linalg.norm(np.diff(points, axis=1), axis=-1).mean(axis=0)
        step_v = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(axis=1)
        u = np.concatenate([[0.0], np.cumsum(step_u)])
        v = np.concatenate([[0.0], np.cumsum(step_v)])
        uv = np.stack(np.meshgrid(u, v), axis=-1)
    rows, columns = points.shape[:2]
    return Mesh(
        points.reshape(-1, 3), normals.reshape(-1, 3), np.asarray(uv).reshape(-1, 2), _grid_faces(rows, columns)
    )


def height_field(heights: Array, extent: float) -> Mesh:
    """The surface z = heights [R, C] over the square [-extent, extent]^2."""
    rows, columns = heights.shape
    x, y = np.meshgrid(np.linspace(-extent, extent, columns), np.linspace(-extent, extent, rows))
    return grid_mesh(np.stack([x, y, heights], -1), np.stack([x, y], -1))


def lathe(radii: Values, heights: Values, segments: int = 24) -> Mesh:
    """The profile (radii, heights) turned around z."""
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    radii, heights = np.asarray(radii, float)[:, None], np.asarray(heights, float)[:, None]
    x, y = radii * np.cos(angle), radii * np.sin(angle)
    return grid_mesh(np.stack([x, y, np.broadcast_to(heights, x.shape)], -1))


def tube(path: Array, radii: Values, segments: int = 12) -> Mesh:
    """A tube of ``radii`` [n] or number around ``path`` [n, 3]."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    frame = np.empty((len(path), 2, 3))
    side = np.cross(tangent[0], [0.31, 0.17, 0.93])
    for i, forward in enumerate(tangent):  # parallel transport: a fixed up-vector would twist the tube
        side = side - forward * (side @ forward)
        side /= np.linalg.norm(side)
        frame[i] = side, np.cross(forward, side)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    ring = np.cos(angle)[:, None] * frame[:, None, 0] + np.sin(angle)[:, None] * frame[:, None, 1]
    radii = np.broadcast_to(np.asarray(radii, float), (len(path),))
    return grid_mesh(path[:, None] + radii[:, None, None] * ring)


def blob(rng: np.random.Generator, roughness: float = 0.35, detail: int = 4, segments: int = 28) -> Mesh:
    """A lumpy closed body of about unit radius.

    Args:
        rng: draws the lumps.
        roughness: size of the lumps relative to the radius.
        detail: octaves of lumps.
        segments: longitude steps; half as many in latitude.
    """
    longitude = np.linspace(0, 2 * np.pi, segments + 1)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 2)
    lon, lat = np.meshgrid(longitude, latitude)
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    radius = np.ones(unit.shape[:2])
    for octave in range(detail):
        frequency = 1.3 * 1.8**octave
        waves = rng.normal(size=(4, 3)) * frequency
        phase = rng.random(4) * 2 * np.pi
        radius += roughness * 1.7**-octave * 0.5 * np.sin(unit @ waves.T + phase).mean(-1)
    radius = np.maximum(radius, 0.2)
    return grid_mesh(unit * radius[..., None], np.stack([lon, lat], -1))


def bent(length: float, radius: float, bend: float, rings: int = 14, segments: int = 10) -> Mesh:
    """A tapered tube bent in the xz-plane by ``bend`` radians: fruit, handles, branches."""
    s = np.linspace(-0.5, 0.5, rings)
    angle = s * bend
    turn = length / max(bend, 1e-3)
    path = np.stack([turn * np.sin(angle), np.zeros(rings), turn * (1 - np.cos(angle))], -1)
    taper = np.sqrt(np.clip(1 - (2 * s) ** 4, 0.02, 1))
    return tube(path, radius * taper, segments)


def knot(radius: float, thickness: float, turns: int = 2, loops: int = 3, rings: int = 90) -> Mesh:
    """A torus knot: much self-occlusion from little description."""
    t = np.linspace(0, 2 * np.pi, rings)
    r = radius * (1 + 0.4 * np.cos(loops * t))
    path = np.stack([r * np.cos(turns * t), r * np.sin(turns * t), 0.4 * radius * np.sin(loops * t)], -1)
    return tube(path, thickness, 10)
