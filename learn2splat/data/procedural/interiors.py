"""Indoor worlds: objects on a table or floor, a wall with things on it, a furnished room."""

from __future__ import annotations

import numpy as np

from learn2splat.data.procedural.buildings import windows
from learn2splat.data.procedural.palette import pick
from learn2splat.data.procedural.primitives import Finish
from learn2splat.data.procedural.prints import cover, wallpaper
from learn2splat.data.procedural.props import Props
from learn2splat.data.procedural.sky import indoor
from learn2splat.data.procedural.textures import carpet, fabric, marble, plain, tiles, wood
from learn2splat.data.procedural.world import Stage, World, tilt, turn, up


def _room(stage: Stage, props: Props, half: tuple[float, float], height: float) -> None:
    """Four walls, floor, ceiling, skirting and pictures; nothing of it throws shadows."""
    hx, hy = half
    wall = stage.finish(
        stage.one_of(plain("plaster", 0.03), plain("paint", 0.04), wallpaper, plain("plaster", 0.06)), 1.1, casts=False
    )
    floor = stage.finish(stage.one_of(wood, wood, tiles, carpet), stage.rng.uniform(1.0, 1.8), gloss=0.35, casts=False)
    stage.build.add("box", (0, 0, height / 2), (hx, hy, height / 2), wall)
    props.box((-hx, -hy, -0.05), (hx, hy, 0.0), floor)
    white = Finish(props.shared("white").texture, 1.0, (1, 1, 1), 0.2, False)
    props.box((-hx, -hy, height - 0.01), (hx, hy, height), white)
    for axis in (0, 1):
        for side in (-1, 1):
            low, high = np.array([-hx, -hy, 0.0]), np.array([hx, hy, 0.09])
            edge = side * (hx, hy)[axis]
            low[axis], high[axis] = edge - 0.015, edge + 0.015
            props.box(low, high, white)


def _on_wall(half: tuple[float, float], side: int, across: float, height: float, gap: float = 0.02) -> tuple:
    """Place and angle of something on wall ``side`` (0 is +y, then +x, -y, -x), ``across`` in -1..1."""
    hx, hy = half
    width, depth = (hx, hy) if side % 2 == 0 else (hy, hx)
    spin = -side * np.pi / 2
    return turn(spin) @ np.array([across * width * 0.75, depth - gap, height]), spin


def _decorate(stage: Stage, props: Props, half: tuple[float, float], sides: tuple[int, ...]) -> None:
    rng = stage.rng
    for side in sides:
        across = rng.uniform(-0.9, -0.2)
        while across < 0.95:
            kind = int(rng.integers(5))
            if kind <= 1:
                at, angle = _on_wall(half, side, across, rng.uniform(1.4, 1.8))
                props.framed(at, rng.uniform(0.18, 0.5, 2), angle)
            elif kind == 2:
                at, angle = _on_wall(half, side, across, 0.0)
                _window(props, at, angle)
            elif kind == 3:
                at, angle = _on_wall(half, side, across, 0.0, 0.16)
                _bookcase(props, at, angle, rng.uniform(0.8, 2.0))
            else:
                at, angle = _on_wall(half, side, across, 0.0, 0.45)
                props.pot_plant(at, rng.uniform(0.7, 1.5))
            across += rng.uniform(0.45, 0.9)


def _window(props: Props, at: np.ndarray, angle: float) -> None:
    pane = props.stage.finish(plain("plaster", 0.02), 1.0, 64, glow=1.6, tint=(0.95, 0.98, 1.0), casts=False)
    props._shared["glass"], kept = pane, props.shared("glass")
    windows(props, at, turn(angle)[:, 0], -turn(angle)[:, 1], [0.0], [1.45], (0.5, 0.6))
    props._shared["glass"] = kept


def _bookcase(props: Props, at: np.ndarray, angle: float, height: float) -> None:
    """Along x or y only, so that rows of books stay axis-aligned."""
    axis = 0 if round(angle / (np.pi / 2)) % 2 == 0 else 1
    finish = props.shared(str(props.rng.choice(["wood", "white", "dark"])))
    half = np.array([0.45, 0.14]) if axis == 0 else np.array([0.14, 0.45])
    levels = np.arange(0.05, height, 0.38)
    for z in levels:
        props.box((*(at[:2] - half), z), (*(at[:2] + half), z + 0.02), finish)
        if z < levels[-1]:
            start = at + up(z + 0.02)
            start[axis] -= 0.42
            props.shelf_row(start, props.rng.uniform(0.4, 0.8), axis)
    for side in (-1, 1):
        end = at.copy()
        end[axis] += side * 0.45
        slim = np.where(np.arange(2) == axis, 0.01, half)
        props.box((*(end[:2] - slim), 0), (*(end[:2] + slim), levels[-1] + 0.02), finish)


def _sofa(props: Props, at: np.ndarray, angle: float) -> None:
    finish = props.stage.finish(props.stage.one_of(plain("fabric", 0.1, 0.2), fabric, carpet), 0.6, gloss=0.05)
    spin = turn(angle)
    for center, half in (
        ((0, 0, 0.2), (0.9, 0.42, 0.2)),
        ((0, 0.36, 0.5), (0.9, 0.12, 0.35)),
        ((-0.85, 0, 0.33), (0.12, 0.42, 0.3)),
        ((0.85, 0, 0.33), (0.12, 0.42, 0.3)),
    ):
        props.build.add("box", at + spin @ center, half, finish, spin)
    for x in (-0.38, 0.38):
        props.build.add("sphere", at + spin @ [x, -0.03, 0.42], (0.42, 0.45, 0.11), finish, spin)
    cushion = props.stage.finish(fabric, 0.3, gloss=0.05)
    for x in (-0.6, 0.55):
        lean = spin @ tilt(-0.9)
        props.build.add("sphere", at + spin @ [x, 0.16, 0.62], (0.2, 0.2, 0.08), cushion, lean)


def _chair(props: Props, at: np.ndarray, angle: float) -> None:
    finish = props.shared(str(props.rng.choice(["wood", "dark", "metal"])))
    spin = turn(angle)
    legs = np.array([[x, y, 0.22] for x in (-0.2, 0.2) for y in (-0.2, 0.2)])
    props.build.add("cylinder", at + legs @ spin.T, (0.02, 0.02, 0.22), finish)
    props.build.add("box", at + up(0.45), (0.23, 0.23, 0.02), finish, spin)
    slats = np.array([[x, 0.21, 0.7] for x in np.linspace(-0.19, 0.19, 6)])
    props.build.add("box", at + slats @ spin.T, (0.015, 0.012, 0.25), finish, spin)
    props.build.add("box", at + spin @ [0, 0.21, 0.95], (0.22, 0.02, 0.04), finish, spin)


def _clutter(stage: Stage, props: Props, top: float, reach: float, count: int, hero: float) -> None:
    """Small things around the middle of a table, none within ``hero`` of it."""
    rng = stage.rng
    angles = rng.random() * 6.28 + np.arange(count) * 2.4
    for angle in angles:
        distance = rng.uniform(hero, max(reach, hero + 0.05))
        at = np.array([distance * np.cos(angle), distance * np.sin(angle), top])
        kind = int(rng.integers(6))
        if kind == 0:
            props.books(at, int(rng.integers(1, 6)))
        elif kind == 1:
            props.vessel(at, rng.uniform(0.07, 0.2))
        elif kind == 2:
            props.fruit(at, int(rng.integers(1, 6)))
        elif kind == 3:
            half = rng.uniform(0.03, 0.1, 3)
            label = stage.finish(cover, 1.0, 128, gloss=0.3)
            props.fitted(at + up(half[2]), half, rng.random() * 6, label)
        elif kind == 4:
            props.pot_plant(at, rng.uniform(0.2, 0.4))
        else:
            sheet = Finish(props.shared("page").texture, (0.21, 0.3), (1, 1, 1), 0.1)
            stage.build.add(
                "box", at + up(0.002), (0.105, 0.15, 0.002), sheet, turn(rng.random() * 6), offset=(0.5, 0.5)
            )


def _hero(stage: Stage, props: Props, at: np.ndarray, size: float) -> None:
    kind = int(stage.rng.integers(6))
    if kind <= 2:
        props.sculpture(at, size)
    elif kind == 3:
        props.bananas(at - [0.1 * size, 0.3 * size, 0], int(stage.rng.integers(3, 6)), 0.9 * size)
    elif kind == 4:
        props.pot_plant(at, 1.2 * size)
    else:
        _blocks(stage, at, size)


def _blocks(stage: Stage, at: np.ndarray, size: float) -> None:
    """A tower of toy blocks in bright colours."""
    rng = stage.rng
    finish = stage.finish(plain("plaster", 0.05), 0.3, 128, gloss=0.5)
    for level in range(4):
        count = 5 - level
        angle = rng.random(count) * 0.5 + np.arange(count) * 6.28 / count
        radius = 0.3 * size * (1 - level * 0.3)
        half = 0.11 * size
        centers = np.column_stack(
            [radius * np.cos(angle), radius * np.sin(angle), np.full(count, half * (2 * level + 1))]
        )
        rotation = np.stack([turn(a) for a in rng.random(count) * 6])
        family = str(rng.choice(["box", "box", "cylinder"]))
        stage.build.add(family, at + centers, half, finish, rotation, tint=pick(rng, "vivid", count) * 1.3)


def tabletop(rng: np.random.Generator) -> World:
    """One object on a table among smaller things, in a room."""
    stage = Stage(rng)
    props = Props(stage)
    half, top = (rng.uniform(2.2, 3.5), rng.uniform(2.2, 3.5)), rng.uniform(0.5, 0.8)
    _room(stage, props, half, 2.7)
    _decorate(stage, props, half, (0, 1, 2, 3))
    table = rng.uniform(0.45, 0.75, 2)
    round_top = stage.chance(0.3)
    props.table(top, table, round_top=round_top)
    size = rng.uniform(0.25, 0.42)
    _hero(stage, props, np.array([0, 0, top]), size)
    _clutter(stage, props, top, 0.85 * float(table.min()), int(rng.integers(2, 9)), 0.6 * size)
    for angle in rng.random(int(rng.integers(0, 3))) * 6.28:
        _chair(props, np.array([1.0 * np.cos(angle), 1.0 * np.sin(angle), 0]), angle - np.pi / 2)
    _sofa(props, np.array([0, half[1] - 0.6, 0]), 0.0)
    light, panorama = indoor(rng, (0, 0, top), 1.6)
    return World(
        stage.build.placed(),
        stage.textures,
        light,
        panorama,
        np.array([0, 0, top + 0.4 * size]),
        3.0 * size,
        (0.15, 0.6),
    )


def floor_object(rng: np.random.Generator) -> World:
    """Something lying on a carpet or floor, seen from close by."""
    stage = Stage(rng)
    props = Props(stage)
    half = (3.0, 3.0)
    _room(stage, props, half, 2.7)
    rug = stage.finish(
        stage.one_of(carpet, carpet, fabric, wood, marble, tiles), rng.uniform(0.5, 0.9), 512, casts=False
    )
    props.box((-2.4, -2.4, 0), (2.4, 2.4, 0.01), rug)
    _decorate(stage, props, half, (0, 2))
    size = rng.uniform(0.2, 0.35)
    _hero(stage, props, np.array([0, 0, 0.01]), size)
    _clutter(stage, props, 0.01, 0.6, int(rng.integers(0, 5)), 0.8 * size)
    light, panorama = indoor(rng, (0, 0, 0), 1.2)
    return World(
        stage.build.placed(), stage.textures, light, panorama, np.array([0, 0, 0.3 * size]), 2.8 * size, (0.3, 0.8)
    )


def wall(rng: np.random.Generator) -> World:
    """A wall with pictures, a shelf and something mounted on it, faced from across a room."""
    stage = Stage(rng)
    props = Props(stage)
    half = (3.0, 3.0)
    _room(stage, props, half, 2.7)
    top = rng.uniform(0.7, 0.95)
    board = stage.finish(stage.one_of(wood, plain("paint"), marble), 1.0, gloss=0.4)
    props.box((-1.3, 2.5, top - 0.05), (1.3, 3.0, top), board)
    props.box((-1.25, 2.55, 0.08), (1.25, 3.0, top - 0.05), props.shared("wood"))
    for x in np.linspace(-1.1, 1.1, int(rng.integers(4, 8))):
        at = np.array([x + rng.normal(0, 0.05), rng.uniform(2.65, 2.8), top])
        choice = int(rng.integers(5))
        if choice == 0:
            props.sculpture(at, rng.uniform(0.25, 0.4))
        elif choice == 1:
            props.books(at, int(rng.integers(2, 9)))
        elif choice == 2:
            props.pot_plant(at, rng.uniform(0.3, 0.5))
        else:
            props.vessel(at, rng.uniform(0.15, 0.35))
    x = -1.4
    while x < 1.5:
        size = rng.uniform(0.15, 0.38, 2)
        props.framed(np.array([x, 2.97, rng.uniform(1.55, 1.9)]), size, 0.0)
        x += 2 * size[0] + rng.uniform(0.15, 0.5)
    _bookcase(props, np.array([-2.0, 2.84, 0]), 0.0, 2.0)
    props.pot_plant(np.array([1.9, 2.5, 0.0]), 1.4)
    light, panorama = indoor(rng, (0, 2.6, 1.2), 2.2)
    return World(stage.build.placed(), stage.textures, light, panorama, np.array([0, 2.7, 1.25]), rng.uniform(1.7, 2.4))


def room(rng: np.random.Generator) -> World:
    """A furnished room to walk through."""
    stage = Stage(rng)
    props = Props(stage)
    half = (rng.uniform(2.3, 3.2), rng.uniform(3.2, 4.5))
    _room(stage, props, half, rng.uniform(2.5, 3.0))
    _decorate(stage, props, half, (0, 1, 3))
    rug = stage.finish(stage.one_of(fabric, carpet, tiles), rng.uniform(0.6, 1.2), casts=False)
    props.box((-1.2, 0.2, 0), (1.2, 2.6, 0.012), rug)
    _sofa(props, np.array([-half[0] + 0.6, half[1] * 0.35, 0]), np.pi / 2)
    _sofa(props, np.array([0.2, half[1] - 0.65, 0]), 0.0)
    at = np.array([rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.6), 0.0])
    props.table(0.45, rng.uniform(0.3, 0.5, 2), at[:2], stage.chance(0.4))
    for _ in range(4):
        place = at + np.array([rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), 0.45])
        props.vessel(place, rng.uniform(0.08, 0.2)) if stage.chance(0.5) else props.books(place, 3)
    for angle in (0.4, 2.2, 4.0):
        _chair(props, np.array([half[0] - 0.6, -0.8 + angle * 0.6, 0]), angle)
    props.sculpture(np.array([-half[0] + 0.6, -0.2, 0.0]), rng.uniform(0.7, 1.3))
    light, panorama = indoor(rng, (0, 1, 0.5), 4.0)
    return World(stage.build.placed(), stage.textures, light, panorama, np.array([0, 0.5, 1.35]), half[1] - 0.4)
