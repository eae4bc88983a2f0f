"""First hits of pinhole rays with thousands of shapes: bounding rectangles, closed forms, one integer z-buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.data.procedural.arrays import Array
from learn2splat.data.procedural.geometry import INTERSECT, NEAR, ray_triangle
from learn2splat.data.procedural.primitives import Placed

CHUNK = 32768
"""Rays or candidates handled at once: they stay in cache, and torch does not split them over threads."""

_LARGE = 2048
_MISS = torch.iinfo(torch.int64).max
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_FLAT = ("disc", "leaf")


@dataclass(frozen=True)
class Eye:
    """One pinhole view: centre [3], world_from_cam [3, 3], and intrinsics in pixels."""

    center: Array
    world_from_cam: Array
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int


@dataclass(frozen=True)
class Band:
    """Rows ``top`` .. ``top + rows`` of a view, sampled at ``offset`` (x, y) within each pixel."""

    top: int
    rows: int
    offset: tuple[float, float]

    @classmethod
    def of(cls, eye: Eye, offset: tuple[float, float]) -> list[Band]:
        """The whole image in bands of at most ``CHUNK`` pixels."""
        step = max(1, CHUNK // eye.width)
        return [cls(top, min(step, eye.height - top), offset) for top in range(0, eye.height, step)]

    def rays(self, eye: Eye) -> tuple[Tensor, Tensor]:
        """(x, y) [rows * width] of the ray directions (x, y, 1) in the camera frame."""
        x = (torch.arange(eye.width) + (self.offset[0] - eye.cx)) / eye.fx
        y = (torch.arange(self.top, self.top + self.rows) + (self.offset[1] - eye.cy)) / eye.fy
        return x.float().repeat(self.rows), y.float().repeat_interleave(eye.width)


@dataclass(frozen=True)
class Seen:
    """The shapes of one family as one view sees them.

    Args:
        params: [N, 9 or 12] rows: ray origin in the unit frame (unit shapes only), then the matrix that takes a
            camera direction there.
        ident: [N] index into the family.
        box: [4, N] float64 bounds x_low, x_high, y_low, y_high in pixels.
    """

    family: str
    params: Tensor
    ident: Tensor
    box: Array

    def intersect(self, rows: Sequence[Tensor] | Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Depth of the hits of directions (x, y, 1), given the 9 or 12 parameter rows."""
        matrix = rows[-9:]
        local = tuple(matrix[3 * i] * x + matrix[3 * i + 1] * y + matrix[3 * i + 2] for i in range(3))
        if self.family == "triangle":
            return ray_triangle(local)
        return INTERSECT[self.family]((rows[0], rows[1], rows[2]), local)


def _bounds(corners: Array, eye: Eye) -> tuple[Array, NDArray[np.bool_]]:
    """Pixel bounds [4, N] of convex hulls of camera-frame corners [N, C, 3], and which can be seen at all."""
    z = corners[..., 2]
    front = z.min(1) > NEAR
    safe = np.where(z > NEAR, z, 1.0)
    x, y = corners[..., 0] / safe * eye.fx + eye.cx, corners[..., 1] / safe * eye.fy + eye.cy
    box = np.stack([x.min(1), x.max(1), y.min(1), y.max(1)])
    box[:, ~front] = np.array([0.0, eye.width, 0.0, eye.height])[:, None]
    left, right = -eye.cx / eye.fx, (eye.width - eye.cx) / eye.fx
    up, down = -eye.cy / eye.fy, (eye.height - eye.cy) / eye.fy
    outside = (corners[..., 0] < left * z).all(1) | (corners[..., 0] > right * z).all(1)
    outside |= (corners[..., 1] < up * z).all(1) | (corners[..., 1] > down * z).all(1)
    return box, ~outside & (z.max(1) > NEAR)


def look(placed: Placed, eye: Eye) -> Seen:
    """What ``eye`` may see of one family: parameters and bounds of the shapes in its frustum."""
    rotation = eye.world_from_cam
    if placed.family == "triangle":
        corners = (placed.rotation - eye.center) @ rotation
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        bc = np.cross(b, c)
        volume = (a * bc).sum(-1)
        safe = np.where(np.abs(volume) < 1e-14, np.inf, volume)
        params = np.concatenate([bc, np.cross(c, a), np.cross(a, b)], -1) / safe[:, None]
    else:
        flat = np.array([1.0, 1.0, 0.0 if placed.family in _FLAT else 1.0])
        reach = (_CORNERS * flat)[None] * placed.size[:, None]
        corners = (reach @ placed.rotation.swapaxes(1, 2) + (placed.center - eye.center)[:, None]) @ rotation
        inverse = placed.rotation.swapaxes(1, 2) / placed.size[:, :, None]
        origin = (inverse @ (eye.center - placed.center)[..., None])[..., 0]
        params = np.concatenate([origin, (inverse @ rotation).reshape(-1, 9)], -1)
    box, visible = _bounds(corners, eye)
    index = np.flatnonzero(visible)
    return Seen(
        placed.family, torch.from_numpy(params[index]).float().contiguous(), torch.from_numpy(index), box[:, index]
    )


def _rectangles(seen: Seen, eye: Eye, band: Band) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shapes with at least one sample of the band in their bounds, and those bounds (x, y, columns, rows)."""
    ox, oy = band.offset
    x0 = np.maximum(np.ceil(seen.box[0] - ox - 1e-3), 0)
    x1 = np.minimum(np.floor(seen.box[1] - ox + 1e-3), eye.width - 1)
    y0 = np.maximum(np.ceil(seen.box[2] - oy - 1e-3), band.top)
    y1 = np.minimum(np.floor(seen.box[3] - oy + 1e-3), band.top + band.rows - 1)
    index = np.flatnonzero((x1 >= x0) & (y1 >= y0))
    boxes = np.stack([x0, y0 - band.top, x1 - x0 + 1, y1 - y0 + 1])[:, index].astype(np.int64)
    return index, boxes


def _chunks(areas: NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive slices whose areas sum to about ``CHUNK`` at most."""
    if not len(areas):
        return
    total = np.cumsum(areas)
    cuts = np.searchsorted(total, np.arange(CHUNK, total[-1] + CHUNK, CHUNK), side="left") + 1
    start = 0
    for cut in np.unique(np.minimum(cuts, len(areas))):
        yield slice(start, int(cut))
        start = int(cut)


def _key(t: Tensor, ident: Tensor | int) -> Tensor:
    # Positive floats order like their bits: the nearest hit wins, ties go to the first shape, in any thread order.
    return (t.contiguous().view(torch.int32).to(torch.int64) << 32) | ident


def _cast_large(
    seen: Seen, shape: int, box: NDArray[np.int64], rays: tuple[Tensor, Tensor], base: int, buffer: Tensor
) -> None:
    x0, y0, columns, rows = (int(v) for v in box)
    window = (slice(y0, y0 + rows), slice(x0, x0 + columns))
    t = seen.intersect(seen.params[shape], rays[0][window], rays[1][window])
    key = torch.where(torch.isfinite(t), _key(t, base + int(seen.ident[shape])), _MISS)
    buffer[window] = torch.minimum(buffer[window], key)


def _cast_small(
    seen: Seen, shapes: Tensor, boxes: Tensor, rays: tuple[Tensor, Tensor], base: int, buffer: Tensor
) -> None:
    area = boxes[2] * boxes[3]
    owner = torch.repeat_interleave(area)
    x0, y0, columns, first = torch.stack([*boxes[:3], area.cumsum(0) - area]).index_select(1, owner)
    step = torch.arange(len(owner)) - first
    row = step // columns
    pixel = (y0 + row) * buffer.shape[1] + x0 + (step - row * columns)
    shape = shapes.index_select(0, owner)
    params = seen.params.index_select(0, shape).T.contiguous()
    t = seen.intersect(params, rays[0].view(-1).index_select(0, pixel), rays[1].view(-1).index_select(0, pixel))
    hit = torch.isfinite(t).nonzero()[:, 0]
    ident = seen.ident.index_select(0, shape.index_select(0, hit)) + base
    buffer.view(-1).scatter_reduce_(0, pixel.index_select(0, hit), _key(t.index_select(0, hit), ident), "amin")


def cast(views: Sequence[Seen], counts: Sequence[int], eye: Eye, band: Band) -> Tensor:
    """The z-buffer of one band.

    Args:
        views: every family as this eye sees it.
        counts: number of shapes of every family; idents count through the families in order.
        eye, band: which rays.

    Returns:
        [rows * width] int64 keys: bits of the float32 camera depth << 32 | ident; ``int64 max`` where nothing is hit.
    """
    x, y = band.rays(eye)
    rays = (x.view(band.rows, eye.width), y.view(band.rows, eye.width))
    buffer = torch.full((band.rows, eye.width), _MISS)
    base = 0
    for seen, count in zip(views, counts, strict=True):
        index, boxes = _rectangles(seen, eye, band)
        areas = boxes[2] * boxes[3]
        for i in np.flatnonzero(areas >= _LARGE):
            _cast_large(seen, int(index[i]), boxes[:, i], rays, base, buffer)
        small = np.flatnonzero(areas < _LARGE)
        shapes, rectangles = torch.from_numpy(index[small]), torch.from_numpy(boxes[:, small])
        for chunk in _chunks(areas[small]):
            _cast_small(seen, shapes[chunk], rectangles[:, chunk], rays, base, buffer)
        base += count
    return buffer.view(-1)


def decode(key: Tensor) -> tuple[Tensor, Tensor]:
    """(depth float32, ident int64) of keys; depth is ``inf`` and ident -1 where nothing was hit."""
    miss = key == _MISS
    depth = (key >> 32).to(torch.int32).view(torch.float32)
    return torch.where(miss, torch.inf, depth), torch.where(miss, -1, key & 0xFFFFFFFF)


def depth_map(placed: Sequence[Placed], eye: Eye) -> Tensor:
    """Camera depth [height, width] at the pixel centres, ``inf`` where nothing is hit."""
    views = [look(part, eye) for part in placed]
    counts = [len(part) for part in placed]
    keys = [cast(views, counts, eye, band) for band in Band.of(eye, (0.5, 0.5))]
    return decode(torch.cat(keys))[0].view(eye.height, eye.width)
