"""Closed-form intersections of rays with unit shapes, in structure-of-arrays form.

A ray is ``origin + t * direction`` with the components of both as three broadcastable tensors; directions need not
be of unit length, so that ``t`` may be camera depth. A miss is ``inf``. Shapes are the unit sphere, the box [-1, 1]^3,
the unit disc and a pointed leaf in z = 0, and the capped cylinder of unit radius with z in [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

Vec = tuple[Tensor, ...]
"""Three components."""

NEAR = 1e-3
"""Hits nearer than this ``t`` are not seen."""

_TINY = 1e-20


def dot(a: Vec, b: Vec) -> Tensor:
    """Componentwise inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def normalised(a: Vec) -> Vec:
    """``a`` over its length; a zero vector stays zero."""
    scale = torch.rsqrt(dot(a, a).clamp_min(_TINY))
    return a[0] * scale, a[1] * scale, a[2] * scale


def cross(a: Vec, b: Vec) -> Vec:
    """Componentwise cross product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def along(origin: Vec, direction: Vec, t: Tensor) -> Vec:
    """The point ``origin + t * direction``."""
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


def _nearest(entry: Tensor, leave: Tensor, hit: Tensor) -> Tensor:
    t = torch.where(entry > NEAR, entry, leave)
    return torch.where(hit & (t > NEAR), t, torch.inf)


def ray_sphere(origin: Vec, direction: Vec) -> Tensor:
    """First ``t`` at which rays meet the unit sphere, from outside or inside."""
    # Around the closest approach rather than by b^2 - 4ac, which cancels in float32 for small far spheres.
    square = dot(direction, direction)
    middle = -dot(origin, direction) / square
    closest = along(origin, direction, middle)
    rest = 1.0 - dot(closest, closest)
    half = (rest.clamp_min(0.0) / square).sqrt()
    return _nearest(middle - half, middle + half, rest > 0)


def ray_box(origin: Vec, direction: Vec) -> Tensor:
    """First ``t`` at which rays meet the box [-1, 1]^3, from outside or inside."""
    entry, leave = torch.tensor(-torch.inf), torch.tensor(torch.inf)
    for o, d in zip(origin, direction, strict=True):
        inverse = 1.0 / torch.where(d.abs() < _TINY, _TINY, d)
        reach = inverse.abs()
        centre = -o * inverse
        low, high = centre - reach, centre + reach
        entry, leave = torch.maximum(entry.to(low), low), torch.minimum(leave.to(high), high)
    return _nearest(entry, leave, leave > entry)


def _plane(origin: Vec, direction: Vec) -> tuple[Tensor, Tensor, Tensor]:
    t = -origin[2] / torch.where(direction[2].abs() < _TINY, _TINY, direction[2])
    return t, origin[0] + t * direction[0], origin[1] + t * direction[1]


def ray_disc(origin: Vec, direction: Vec) -> Tensor:
    """``t`` at which rays meet the unit disc in z = 0."""
    t, x, y = _plane(origin, direction)
    return torch.where((x * x + y * y < 1.0) & (t > NEAR), t, torch.inf)


def ray_leaf(origin: Vec, direction: Vec) -> Tensor:
    """``t`` at which rays meet the pointed oval |x| < 1 - y^2 in z = 0."""
    t, x, y = _plane(origin, direction)
    return torch.where((x.abs() + y * y < 1.0) & (t > NEAR), t, torch.inf)


def ray_cylinder(origin: Vec, direction: Vec) -> Tensor:
    """First ``t`` at which rays meet the capped cylinder of unit radius, z in [-1, 1]."""
    square = (direction[0] * direction[0] + direction[1] * direction[1]).clamp_min(_TINY)
    middle = -(origin[0] * direction[0] + origin[1] * direction[1]) / square
    x, y = origin[0] + middle * direction[0], origin[1] + middle * direction[1]
    rest = 1.0 - x * x - y * y
    half = (rest.clamp_min(0.0) / square).sqrt()
    inverse = 1.0 / torch.where(direction[2].abs() < _TINY, _TINY, direction[2])
    slab, reach = -origin[2] * inverse, inverse.abs()
    entry = torch.maximum(middle - half, slab - reach)
    leave = torch.minimum(middle + half, slab + reach)
    return _nearest(entry, leave, (rest > 0) & (leave > entry))


def ray_triangle(weights: Vec) -> Tensor:
    """``t`` at which rays from the origin meet triangles.

    Args:
        weights: the inverse of the matrix whose columns are the three vertices, times the ray directions.
    """
    a, b, c = weights
    total = a + b + c
    # A hair of slack keeps neighbours that share an edge from leaving a crack between them.
    hit = (torch.minimum(torch.minimum(a, b), c) >= -1e-5 * total) & (total > 0)
    t = 1.0 / torch.where(hit, total, 1.0)
    return torch.where(hit & (t > NEAR), t, torch.inf)


def _zeros_and_one(like: Tensor, value: Tensor | None = None) -> Vec:
    zero = torch.zeros_like(like)
    return zero, zero, torch.ones_like(like) if value is None else value


def flat_surface(point: Vec, size: Vec) -> tuple[Vec, Vec, Tensor, Tensor]:
    """Normal, tangent and metric (u, v) of discs and leaves at local ``point``; ``size`` holds the half-axes."""
    zero, _, one = _zeros_and_one(point[0])
    return (zero, zero, one), (one, zero, zero), point[0] * size[0], point[1] * size[1]


def sphere_surface(point: Vec, size: Vec) -> tuple[Vec, Vec, Tensor, Tensor]:
    """Normal, tangent and metric (longitude, latitude) of unit spheres at local ``point``."""
    longitude = torch.atan2(point[1], point[0])
    latitude = torch.asin(point[2].clamp(-1.0, 1.0))
    tangent = (-point[1], point[0], torch.zeros_like(longitude))
    return point, tangent, longitude * torch.maximum(size[0], size[1]), latitude * size[2]


def cylinder_surface(point: Vec, size: Vec) -> tuple[Vec, Vec, Tensor, Tensor]:
    """Normal, tangent and metric (angle, height) of cylinders; (x, y) on the caps."""
    cap = point[2].abs() > 0.9999
    zero, _, one = _zeros_and_one(point[0], point[2])
    normal = (torch.where(cap, zero, point[0]), torch.where(cap, zero, point[1]), torch.where(cap, one, zero))
    tangent = (torch.where(cap, 1.0, -point[1]), torch.where(cap, 0.0, point[0]), zero)
    u = torch.where(cap, point[0] * size[0], torch.atan2(point[1], point[0]) * size[0])
    v = torch.where(cap, point[1] * size[1], point[2] * size[2])
    return normal, tangent, u, v


def box_surface(point: Vec, size: Vec) -> tuple[Vec, Vec, Tensor, Tensor]:
    """Normal, tangent and metric (u, v) of boxes; v runs along z on the side walls."""
    ax, ay, az = point[0].abs(), point[1].abs(), point[2].abs()
    on_x = (ax >= ay) & (ax >= az)
    on_z = ~on_x & (az >= ay)
    on_y = ~on_x & ~on_z
    zero = torch.zeros_like(ax)
    normal = (
        torch.where(on_x, point[0], zero),
        torch.where(on_y, point[1], zero),
        torch.where(on_z, point[2], zero),
    )
    tangent = (torch.where(on_x, 0.0, 1.0), torch.where(on_x, 1.0, zero), zero)
    u = torch.where(on_x, point[1] * size[1], point[0] * size[0])
    v = torch.where(on_z, point[1] * size[1], point[2] * size[2])
    return normal, tangent, u, v


INTERSECT = {
    "sphere": ray_sphere,
    "box": ray_box,
    "disc": ray_disc,
    "leaf": ray_leaf,
    "cylinder": ray_cylinder,
}
SURFACE = {
    "sphere": sphere_surface,
    "box": box_surface,
    "disc": flat_surface,
    "leaf": flat_surface,
    "cylinder": cylinder_surface,
}
