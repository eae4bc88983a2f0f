"""What a ray hit: position, normal, texture coordinates and paint of the first hits of one band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.data.procedural.geometry import SURFACE, Vec, along, dot, normalised
from learn2splat.data.procedural.primitives import Placed

_PAINT = ("texture", "tile", "tint", "gloss", "glow", "offset")


@dataclass(frozen=True)
class Surface:
    """n first hits.

    Args:
        point: world position; normal: unit, towards the viewer; tangent: unit, along u; each three [n] tensors.
        uv: two [n] tensors in repeats of the texture.
        paint: [n, 10] columns texture, tile_u, tile_v, tint (3), gloss, glow, offset (2).
    """

    point: Vec
    normal: Vec
    tangent: Vec
    uv: tuple[Tensor, Tensor]
    paint: Tensor


class Resolver:
    """Tables of every shape, as float32 rows to gather from."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self.families = [part.family for part in placed]
        self.counts = [len(part) for part in placed]
        self.paint = torch.cat([_paint_rows(part) for part in placed])
        self.shapes = [_triangle_rows(part) if part.family == "triangle" else _unit_rows(part) for part in placed]

    def resolve(self, point: Vec, direction: Vec, ident: Tensor) -> Surface:
        """The surfaces at world ``point`` (three [n]), seen along ``direction``, of shapes ``ident`` [n]."""
        out = torch.empty((8, len(ident)))
        base = 0
        for family, count, table in zip(self.families, self.counts, self.shapes, strict=True):
            rows = ((ident >= base) & (ident < base + count)).nonzero()[:, 0]
            if len(rows):
                params = table.index_select(0, ident.index_select(0, rows) - base).T.contiguous()
                here = tuple(component.index_select(0, rows) for component in point)
                solve = _triangle_surface if family == "triangle" else _unit_surface
                out.index_copy_(1, rows, torch.stack(solve(family, params, here)))
            base += count
        normal = normalised((out[0], out[1], out[2]))
        toward = torch.where(dot(normal, direction) > 0, -1.0, 1.0)
        normal = (normal[0] * toward, normal[1] * toward, normal[2] * toward)
        tangent = normalised((out[3], out[4], out[5]))
        return Surface(point, normal, tangent, (out[6], out[7]), self.paint.index_select(0, ident))


def _paint_rows(part: Placed) -> Tensor:
    columns = [torch.from_numpy(getattr(part, name).astype("float32")).view(len(part), -1) for name in _PAINT]
    return torch.cat(columns, 1)


def _unit_rows(part: Placed) -> Tensor:
    """[N, 21]: local_from_world (9) and its shift (3), world_from_local normals (9) with sizes folded in, size (3)."""
    inverse = part.rotation.swapaxes(1, 2) / part.size[:, :, None]
    shift = -(inverse @ part.center[..., None])[..., 0]
    rotation = part.rotation
    columns = [inverse.reshape(-1, 9), shift, rotation.reshape(-1, 9), part.size]
    return torch.cat([torch.from_numpy(c.astype("float32")) for c in columns], 1).contiguous()


def _unit_surface(family: str, params: Tensor, point: Vec) -> tuple[Tensor, ...]:
    local = tuple(
        params[3 * i] * point[0] + params[3 * i + 1] * point[1] + params[3 * i + 2] * point[2] + params[9 + i]
        for i in range(3)
    )
    size = (params[21], params[22], params[23])
    normal, tangent, u, v = SURFACE[family](local, size)
    normal = (normal[0] / size[0], normal[1] / size[1], normal[2] / size[2])
    tangent = (tangent[0] * size[0], tangent[1] * size[1], tangent[2] * size[2])
    turned = [_turn(params[12:21], vector) for vector in (normal, tangent)]
    return (*turned[0], *turned[1], u, v)


def _turn(matrix: Tensor, vector: Vec) -> Vec:
    return tuple(dot((matrix[3 * i], matrix[3 * i + 1], matrix[3 * i + 2]), vector) for i in range(3))


def _triangle_rows(part: Placed) -> Tensor:
    """[N, 33]: a, rows of barycentric weights b and c (3 + 3), corner normals (9), corner uv (6), tangent (3)."""
    corners = torch.from_numpy(part.rotation)
    uv = torch.from_numpy(part.corner_uv)
    normal = torch.nn.functional.normalize(torch.from_numpy(part.corner_normal), dim=-1)
    e, f = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    ee, ff, ef = (e * e).sum(-1, True), (f * f).sum(-1, True), (e * f).sum(-1, True)
    area = (ee * ff - ef * ef).clamp_min(1e-24)
    weight_b, weight_c = (ff * e - ef * f) / area, (ee * f - ef * e) / area
    du, dv = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    # The tangent is the gradient of u up to scale; any sign will do for a bump.
    tangent = e * dv[:, 1:] - f * du[:, 1:]
    tangent = tangent * torch.sign(du[:, :1] * dv[:, 1:] - dv[:, :1] * du[:, 1:])
    columns = [corners[:, 0], weight_b, weight_c, normal.flatten(1), uv.flatten(1), tangent]
    return torch.cat(columns, 1).float().contiguous()


def _triangle_surface(_: str, params: Tensor, point: Vec) -> tuple[Tensor, ...]:
    start = (params[0], params[1], params[2])
    ray = along(point, start, torch.full((), -1.0))
    b = dot(ray, (params[3], params[4], params[5])).clamp(0, 1)
    c = dot(ray, (params[6], params[7], params[8])).clamp(0, 1)
    a = 1 - b - c
    normal = tuple(a * params[9 + i] + b * params[12 + i] + c * params[15 + i] for i in range(3))
    u, v = (a * params[18 + i] + b * params[20 + i] + c * params[22 + i] for i in range(2))
    return (*normal, params[24], params[25], params[26], u, v)
