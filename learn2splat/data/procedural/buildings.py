"""Built things outdoors: houses with windows, fences, cars, lamp posts."""

from __future__ import annotations

import numpy as np

from learn2splat.data.procedural import meshes
from learn2splat.data.procedural.arrays import Values
from learn2splat.data.procedural.palette import pick
from learn2splat.data.procedural.primitives import Finish
from learn2splat.data.procedural.props import Props
from learn2splat.data.procedural.world import turn, up


def gable(props: Props, center: Values, half: Values, rise: float, angle: float, finish: Finish) -> None:
    """A pitched roof over the rectangle ``half`` with its eaves at ``center``; the ridge runs along local x."""
    hx, hy = half
    slope = np.hypot(hy, rise)
    for side in (-1, 1):
        corners = np.array([[[-hx, side * hy, 0], [hx, side * hy, 0]], [[-hx, 0, rise], [hx, 0, rise]]])
        uv = np.array([[[0, 0], [2 * hx, 0]], [[0, slope], [2 * hx, slope]]], float)
        props.build.add_mesh(meshes.grid_mesh(corners, uv), finish, center, turn(angle))
    inset = 0.93
    for side in (-1, 1):
        x = side * hx * inset
        wall = np.array([[[x, -hy, 0], [x, hy, 0]], [[x, 0, rise * 0.98], [x, 0, rise * 0.98]]])
        uv = wall[..., 1:]
        props.build.add_mesh(meshes.grid_mesh(wall, uv), props.shared("white"), center, turn(angle))


def windows(
    props: Props,
    origin: Values,
    right: Values,
    out: Values,
    columns: Values,
    rows: Values,
    size: Values,
) -> None:
    """A grid of framed windows on a wall.

    Args:
        origin: [3] a point of the wall; right, out: unit [3] along the wall and away from it.
        columns, rows: positions of the window centres along ``right`` and z.
        size: half width and half height.
    """
    origin, right, out = (np.asarray(v, float) for v in (origin, right, out))
    u, v = (grid.ravel() for grid in np.meshgrid(columns, rows))
    centers = origin + u[:, None] * right + v[:, None] * [0, 0, 1]
    frame = np.stack([right, out, [0, 0, 1]], 1)
    w, h = size

    def bars(du: float, dv: float, depth: float, half: Values, finish: Finish) -> None:
        props.build.add("box", centers + du * right + dv * np.array([0, 0, 1.0]) + depth * out, half, finish, frame)

    white = props.shared("white")
    bars(0, 0, 0.0, (w, 0.03, h), props.shared("glass"))
    for side in (-1, 1):
        bars(side * w, 0, 0.03, (0.06 * w + 0.02, 0.06, h), white)
        bars(0, side * h, 0.03, (w + 0.04, 0.06, 0.05), white)
    bars(0, 0, 0.03, (0.02, 0.02, h), white)
    bars(0, 0.25 * h, 0.03, (w, 0.02, 0.02), white)
    bars(0, -h - 0.08, 0.1, (w * 1.25, 0.14, 0.05), props.shared("stone"))


def house(props: Props, at: Values, half: Values, height: float, angle: float, wall: Finish) -> None:
    """A gabled house with windows on all four sides."""
    at = np.asarray(at, float)
    hx, hy = half
    props.build.add("box", at + up(height / 2), (hx, hy, height / 2), wall, turn(angle))
    gable(
        props,
        at + up(height),
        (hx * 1.08, hy * 1.15),
        hy * props.rng.uniform(0.6, 1.1),
        angle,
        props.shared("roof"),
    )
    floors = max(1, int(height / 2.8))
    rows = (np.arange(floors) + 0.5) * height / floors
    for side in range(4):
        spin = turn(angle + side * np.pi / 2)
        depth, width = (hy, hx) if side % 2 == 0 else (hx, hy)
        columns = np.arange(-width + 1.0, width - 0.9, 2.2)
        if len(columns):
            windows(props, at + spin @ [0, -depth, 0], spin[:, 0], -spin[:, 1], columns, rows, (0.45, 0.65))
    chimney = at + turn(angle) @ [hx * 0.5, hy * 0.3, 0] + up(height + 0.5 * hy)
    props.build.add("box", chimney, (0.3, 0.3, 0.9), props.shared("stone"), turn(angle))


def fence(props: Props, start: Values, end: Values, height: float, spacing: float) -> None:
    """Thin posts with two rails from ``start`` to ``end`` [3]."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = np.linalg.norm(end - start)
    direction = (end - start) / length
    count = max(2, int(length / spacing) + 1)
    posts = start + np.linspace(0, length, count)[:, None] * direction + up(height / 2)
    finish = props.shared(str(props.rng.choice(["metal", "wood", "white"])))
    radius = min(0.02, 0.2 * spacing)
    props.build.add("cylinder", posts, (radius, radius, height / 2), finish)
    frame = np.stack([direction, np.cross([0, 0, 1.0], direction), [0, 0, 1.0]], 1)
    for level in (0.15, 0.95):
        middle = (start + end) / 2 + up(level * height)
        props.build.add("box", middle, (length / 2, 0.02, 0.025), finish, frame)


_CAR = np.array(
    [
        [-2.1, 0.3],
        [-2.15, 0.75],
        [-1.9, 0.95],
        [-1.3, 0.98],
        [-0.9, 1.38],
        [0.35, 1.4],
        [1.0, 0.98],
        [1.9, 0.86],
        [2.15, 0.6],
        [2.1, 0.3],
    ]
)
_CABIN = np.array([[-1.32, 1.02], [-0.94, 1.33], [0.42, 1.34], [1.0, 1.01]])


def _slab(profile: Values, half: float) -> meshes.Mesh:
    """A profile [n, 2] in x and z, closed, as thick as ``2 * half`` along y."""
    ring = np.concatenate([profile, profile[:1]])
    middle = np.broadcast_to(ring.mean(0), ring.shape)
    columns = [(middle, -half), (ring * 0.98 + 0.02 * middle, -half), (ring, -0.93 * half)]
    columns += [(edge, -y) for edge, y in columns[::-1]]
    return meshes.grid_mesh(np.stack([np.insert(edge, 1, y, axis=1) for edge, y in columns], axis=1))


def car(props: Props, at: Values, angle: float) -> None:
    """A parked car."""
    at, spin = np.asarray(at, float), turn(angle)
    paint = Finish(props.shared("neutral").texture, 1.0, pick(props.rng, "car") * 1.6, 0.9)
    props.build.add_mesh(_slab(_CAR, 0.88), paint, at, spin)
    props.build.add_mesh(_slab(_CABIN, 0.9), props.shared("glass"), at, spin)
    wheels = np.array([[x, y, 0.32] for x in (-1.3, 1.3) for y in (-0.82, 0.82)])
    tyre = Finish(props.shared("neutral").texture, 1.0, (0.05, 0.05, 0.05), 0.2)
    axle = spin @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    props.build.add("cylinder", at + wheels @ spin.T, (0.32, 0.32, 0.1), tyre, axle)


def lamp_post(props: Props, at: Values, height: float) -> None:
    """A thin post with a lantern."""
    at = np.asarray(at, float)
    props.build.add("cylinder", at + up(height / 2), (0.05, 0.05, height / 2), props.shared("metal"))
    props.build.add("sphere", at + up(height), (0.18, 0.18, 0.22), props.shared("white"))
