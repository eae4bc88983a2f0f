"""Outdoor worlds: an object in a garden, a facade, a street, a landscape from above."""

from __future__ import annotations

import numpy as np

from learn2splat.data.procedural import meshes
from learn2splat.data.procedural.buildings import car, fence, gable, house, lamp_post, windows
from learn2splat.data.procedural.palette import pick
from learn2splat.data.procedural.primitives import Finish
from learn2splat.data.procedural.props import Props
from learn2splat.data.procedural.sky import outdoor
from learn2splat.data.procedural.textures import (
    bark,
    blocks,
    bricks,
    carpet,
    dark_wood,
    foliage,
    gravel,
    noise,
    plain,
    rough,
    wood,
)
from learn2splat.data.procedural.world import Stage, World, random_rotations, turn, up


def _ground(stage: Stage, radius: float, tile: float) -> Finish:
    painter = stage.one_of(
        foliage("grass", 40), gravel, rough("soil", 0.3), blocks, rough("asphalt", 0.2), foliage("grass", 28)
    )
    finish = stage.finish(painter, tile, 512, casts=False, gloss=0.03)
    stage.build.add("disc", (0, 0, 0), radius, finish)
    return finish


def _strewn(props: Props, inner: float, outer: float, count: int) -> None:
    """Pebbles and fallen leaves on the ground."""
    rng = props.rng
    angle, distance = rng.random(count) * 6.28, inner + (outer - inner) * rng.random(count) ** 0.7
    places = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), np.zeros(count)])
    stones = count // 3
    size = rng.uniform(0.01, 0.05, (stones, 3)) * inner
    props.build.add(
        "sphere",
        places[:stones],
        size,
        props.shared("stone"),
        random_rotations(rng, stones),
        tint=pick(rng, "stone", stones) * 2.5,
    )
    props.leaves(places[stones:] + up(0.012), 0.035 * inner, "leaf", 3.0)


def _woods(props: Props, inner: float, outer: float, count: int, leaves: int) -> None:
    rng = props.rng
    for i in range(count):
        angle = (i + rng.uniform(-0.3, 0.3)) * 6.28 / count
        distance = rng.uniform(inner, outer)
        at = np.array([distance * np.cos(angle), distance * np.sin(angle), 0])
        if props.stage.chance(0.3):
            size = rng.uniform(0.6, 1.6)
            props.crown(at + up(0.6 * size), (size, size, 0.8 * size), leaves // 2, 0.16 * size)
        else:
            props.tree(at, rng.uniform(4, 9), leaves)


def garden(rng: np.random.Generator) -> World:
    """A statue, trunk or heap in the open, to walk around."""
    stage = Stage(rng)
    props = Props(stage)
    _ground(stage, 80.0, rng.uniform(1.2, 2.5))
    size = rng.uniform(0.8, 1.8)
    kind = int(rng.integers(4))
    if kind == 0:
        wide = rng.uniform(0.3, 0.6)
        props.box((-wide, -wide, 0), (wide, wide, 0.5), stage.finish(stage.one_of(blocks, bricks, rough("stone")), 0.9))
        props.sculpture(np.array([0, 0, 0.5]), size)
    elif kind == 1:
        _stump(stage, props, size)
    elif kind == 2:
        _heap(stage, props, size)
    else:
        _bench(stage, props)
        props.sculpture(np.array([0.2, 0.5, 0.0]), 0.6 * size)
    _strewn(props, 0.8, 5.0, 350)
    _woods(props, 7.0, 16.0, int(rng.integers(5, 14)), 450)
    if stage.chance(0.5):
        angle = rng.random() * 6.28
        wall = stage.finish(stage.one_of(bricks, plain("plaster"), wood, blocks), 1.6)
        house(props, np.array([20 * np.cos(angle), 20 * np.sin(angle), 0]), (5, 4), 5.5, angle, wall)
    if stage.chance(0.6):
        a = rng.random() * 6.28
        ends = [6 * np.array([np.cos(t), np.sin(t), 0]) for t in (a - 0.9, a + 0.9)]
        fence(props, ends[0], ends[1], 1.1, 0.16)
    light, panorama = outdoor(rng, (0, 0, 0.5), 7.0, 0.004)
    return World(
        stage.build.placed(),
        stage.textures,
        light,
        panorama,
        np.array([0, 0, 0.6 * size]),
        1.4 + 1.1 * size,
        (0.02, 0.4),
    )


def _stump(stage: Stage, props: Props, size: float) -> None:
    """A gnarled trunk with burls, roots and broken limbs."""
    rng = stage.rng
    finish = stage.finish(bark, 0.9, 512, gloss=0.03)
    s = np.linspace(0, 1, 26)[:, None]
    angle = np.linspace(0, 2 * np.pi, 41)
    flare = 0.28 * size * (1 + 1.1 * np.exp(-7 * s) + 0.18 * np.sin(5 * angle + 2 * s) * np.exp(-2 * s))
    lumps = sum(
        rng.uniform(0.02, 0.12) * np.cos(k * angle + rng.random() * 6 + rng.normal(0, 2) * s) for k in (2, 3, 5, 7, 11)
    )
    radius = flare * (1 + lumps) * (1 + 0.04 * rng.normal(size=(26, 1)))
    height = 2.2 * size * s + 0 * angle
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)
    points[:, -1] = points[:, 0]
    props.build.add_mesh(meshes.grid_mesh(points), finish)
    for z in rng.uniform(0.4, 1.6, 5) * size:
        a = rng.random() * 6.28
        at = np.array([0.27 * size * np.cos(a), 0.27 * size * np.sin(a), z])
        props.build.add_mesh(meshes.blob(rng, 0.5), finish, at, scale=size * rng.uniform(0.08, 0.2))
    props.crown((0, 0, 2.6 * size), (1.2 * size, 1.2 * size, 0.7 * size), 500, 0.12 * size)


def _heap(stage: Stage, props: Props, size: float) -> None:
    """Boulders piled up."""
    rng = stage.rng
    finish = stage.finish(stage.one_of(rough("stone", 0.3), blocks, rough("soil", 0.3)), 0.8, gloss=0.05)
    for i in range(int(rng.integers(5, 12))):
        radius = size * rng.uniform(0.15, 0.4)
        spread = rng.normal(0, 0.3 * size, 2)
        at = np.array([*spread, 0.5 * radius + 0.06 * size * i])
        props.build.add_mesh(meshes.blob(rng, 0.8, 5), finish, at, random_rotations(rng, 1)[0], radius)


def _bench(stage: Stage, props: Props) -> None:
    planks = stage.finish(stage.one_of(dark_wood, plain("paint"), rough("bark", 0.15)), 0.8, gloss=0.15)
    for i, y in enumerate(np.linspace(-0.2, 0.2, 4)):
        props.box((-0.8, y - 0.045, 0.43), (0.8, y + 0.045, 0.46), planks)
        if i < 3:
            props.box((-0.8, 0.25, 0.55 + 0.13 * i), (0.8, 0.28, 0.64 + 0.13 * i), planks)
    for x in (-0.65, 0.65):
        props.box((x - 0.03, -0.22, 0), (x + 0.03, -0.16, 0.43), props.shared("metal"))
        props.box((x - 0.03, 0.22, 0), (x + 0.03, 0.28, 0.95), props.shared("metal"))


def facade(rng: np.random.Generator) -> World:
    """A building front with windows, cornices, balconies and a forecourt."""
    stage = Stage(rng)
    props = Props(stage)
    _ground(stage, 150.0, rng.uniform(2.0, 4.0))
    wall = stage.finish(
        stage.one_of(bricks, blocks, plain("plaster", 0.08), plain("paint", 0.06)), rng.uniform(1.6, 3.0), 512
    )
    floors, bay = int(rng.integers(2, 5)), rng.uniform(2.2, 3.4)
    storey = rng.uniform(2.9, 3.8)
    wide, high = bay * int(rng.integers(3, 6)), storey * floors
    props.box((-wide, 0, 0), (wide, 8, high), wall)
    columns = np.arange(-wide + bay / 2, wide, bay)
    columns = columns[np.abs(columns) > 0.3 * bay]
    rows = (np.arange(floors) + 0.55) * storey
    size = (rng.uniform(0.45, 0.7), rng.uniform(0.75, 1.15))
    windows(props, (0, 0, 0), (1, 0, 0), (0, -1, 0), columns, rows, size)
    trim = stage.finish(stage.one_of(rough("stone", 0.12), plain("plaster", 0.05)), 1.0)
    for z in (*(np.arange(1, floors) * storey), high):
        props.box((-wide - 0.1, -0.18, z - 0.1), (wide + 0.1, 0, z + 0.12), trim)
    props.box((-wide - 0.05, -0.1, 0), (wide + 0.05, 0, 0.6), trim)
    for x in np.arange(-wide, wide + 0.1, bay * int(rng.integers(1, 4))):
        props.box((x - 0.25, -0.12, 0), (x + 0.25, 0, high), trim)
    props.fitted((0, -0.05, 1.25), (0.65, 0.06, 1.25), 0.0, props.shared("wood"), pick(rng, "vivid") * 2)
    gable(props, (0, 4, high), (wide * 1.03, 4.5), rng.uniform(1.5, 4.0), 0.0, props.shared("roof"))
    for x in rng.uniform(-wide * 0.9, wide * 0.9, int(rng.integers(1, 5))):
        props.box((x - 0.4, 2.5, high), (x + 0.4, 3.3, high + rng.uniform(2.5, 4.5)), props.shared("stone"))
    if stage.chance(0.6):
        for x in columns[:: int(rng.integers(1, 3))]:
            z = rows[1] - size[1] - 0.15
            props.box((x - 0.9, -0.8, z - 0.12), (x + 0.9, 0, z), trim)
            fence(props, (x - 0.88, -0.78, z), (x + 0.88, -0.78, z), 0.9, 0.13)
    _forecourt(stage, props, wide)
    light, panorama = outdoor(rng, (0, -3, 3), 1.1 * wide + 4, 0.002)
    if light.sun_direction[1] > -0.15:  # a front in its own shadow all day is a rare photograph
        light.sun_direction[1] *= -1
    reach = rng.uniform(0.9, 1.3) * max(wide, high) + 3
    return World(stage.build.placed(), stage.textures, light, panorama, np.array([0, 0, 0.42 * high + 0.4]), reach)


def _forecourt(stage: Stage, props: Props, wide: float) -> None:
    rng = stage.rng
    lawn = stage.finish(foliage("grass"), 2.0, 512, casts=False)
    if stage.chance(0.6):
        props.box((-wide, -9, 0), (-1.5, -3, 0.06), lawn)
        props.box((1.5, -9, 0), (wide, -3, 0.06), lawn)
    for x in np.arange(-wide, wide, rng.uniform(1.5, 4.0)):
        kind = int(rng.integers(6))
        at = np.array([x, rng.uniform(-2.2, -1.2), 0])
        if kind <= 1:
            r = rng.uniform(0.4, 0.8)
            props.crown(at + up(r), (r, r, r), 220, 0.11)
        elif kind == 2:
            props.pot_plant(at, 1.3)
        elif kind == 3:
            lamp_post(props, at - [0, 2, 0], 3.2)
    if stage.chance(0.4):
        car(props, np.array([rng.uniform(-wide, wide) * 0.6, -3.5, 0]), 0.0)
    for side in (-1, 1):
        if stage.chance(0.7):
            props.tree(np.array([side * wide * rng.uniform(0.8, 1.2), rng.uniform(-8, -4), 0]), rng.uniform(6, 11), 900)


def street(rng: np.random.Generator) -> World:
    """A lane between houses, gardens and trees, to walk along."""
    stage = Stage(rng)
    props = Props(stage)
    grass = stage.finish(foliage("grass"), 2.0, 512, casts=False)
    stage.build.add("disc", (0, 0, 0), 120.0, grass)
    lane = stage.finish(stage.one_of(rough("asphalt", 0.2), blocks, gravel, rough("soil", 0.25)), 2.2, 512, casts=False)
    props.box((-2.6, -30, 0), (2.6, 40, 0.02), lane)
    kerb = stage.finish(rough("stone", 0.15), 0.8)
    for side in (-1, 1):
        props.box((side * 2.7 - 0.1, -30, 0), (side * 2.7 + 0.1, 40, 0.12), kerb)
    walls = [
        stage.finish(stage.one_of(bricks, plain("plaster", 0.07), wood, blocks), rng.uniform(1.5, 2.5))
        for _ in range(3)
    ]
    for side in (-1, 1):
        y = -4.0
        while y < 34:
            kind = int(rng.integers(5))
            x = side * rng.uniform(4.2, 6.0)
            if kind <= 1:
                half = (rng.uniform(3, 5), 3.2)
                house(
                    props,
                    np.array([side * 9.0, y + half[0], 0]),
                    half,
                    rng.uniform(3, 7),
                    np.pi / 2,
                    walls[int(rng.integers(3))],
                )
                fence(
                    props,
                    (side * 3.4, y, 0),
                    (side * 3.4, y + 2 * half[0], 0),
                    rng.uniform(0.8, 1.3),
                    rng.uniform(0.15, 0.6),
                )
                y += 2 * half[0]
            elif kind == 2:
                props.tree(np.array([x, y, 0]), rng.uniform(4, 8), 700)
            elif kind == 3:
                r = rng.uniform(0.5, 1.2)
                props.crown((x, y, r * 0.8), (r, 1.4 * r, r), 350, 0.13)
            elif stage.chance(0.5):
                car(props, np.array([side * 1.7, y + 4, 0.02]), np.pi / 2)
            else:
                lamp_post(props, np.array([side * 3.0, y, 0]), 4.0)
            y += rng.uniform(1.5, 4.0)
    light, panorama = outdoor(rng, (0, 8, 2), 18.0, 0.006)
    return World(stage.build.placed(), stage.textures, light, panorama, np.array([0, 2.0, 1.6]), 8.0)


def aerial(rng: np.random.Generator) -> World:
    """Fields, woods, roads, houses and cars from above."""
    stage = Stage(rng)
    props = Props(stage)
    angle = rng.random() * np.pi
    roads = [(angle, 0.0), (angle + np.pi / 2 + rng.normal(0, 0.2), float(rng.uniform(-14, 14)))]
    _land(stage, roads)
    paving = stage.finish(stage.one_of(rough("asphalt", 0.15), gravel, carpet), 5.0, casts=False)
    for turned, place in roads:
        spin = turn(turned)
        stage.build.add("box", spin @ [0, place, 0.02], (110, rng.uniform(1.6, 3.0), 0.06), paving, spin)
        for x in rng.uniform(-35, 35, int(rng.integers(0, 7))):
            car(props, spin @ [x, place + 1.0, 0.08], turned)
    walls = stage.finish(stage.one_of(bricks, plain("plaster", 0.07)), 2.0)
    wooded = rng.random() ** 0.7
    places = rng.uniform(-42, 42, (int(60 + 420 * wooded), 2))
    spare = np.all([_off_road(places, road) > 3.6 for road in roads], axis=0)
    for i in range(int(rng.integers(2, 8))):
        along, side = (i - 3) * 13 + rng.uniform(-1, 1), float(rng.choice([-1, 1]))
        at = turn(angle) @ [along, side * rng.uniform(8, 12), 0]
        if _off_road(at[None, :2], roads[1])[0] > 7:
            house(props, at, (rng.uniform(3.5, 5.5), rng.uniform(2.8, 4)), rng.uniform(2.6, 5), angle, walls)
            spare &= np.linalg.norm(places - at[:2], axis=1) > 7.0
    kind = str(rng.choice(["leaf", "grass"]))
    for x, y in places[spare]:
        r = rng.uniform(0.8, 3.0)
        props.crown((x, y, r * 1.2), (r, r, 1.5 * r), int(22 * r + 30), 0.2 + 0.16 * r, kind)
    light, panorama = outdoor(rng, (0, 0, 0), 48.0, 0.001)
    return World(stage.build.placed(), stage.textures, light, panorama, np.zeros(3), rng.uniform(26, 44))


def _off_road(places: np.ndarray, road: tuple[float, float]) -> np.ndarray:
    """Distance [N] of places [N, 2] from the middle of a road (direction, offset)."""
    return np.abs((places @ turn(road[0])[:2, :2])[:, 1] - road[1])


def _land(stage: Stage, roads: list[tuple[float, float]]) -> None:
    """Gently rolling ground, level along the roads, with patches of other growth."""
    extent, steps = 110.0, 72
    painters = [foliage("grass", 40), foliage("grass", 28), rough("soil", 0.3, 0.6), foliage("leaf", 50), gravel]
    axis = np.linspace(-extent, extent, steps)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    near = np.min([_off_road(grid, road) for road in roads], axis=0).reshape(steps, steps)
    relief = noise(stage.rng, steps, 2.0) * stage.rng.uniform(0.2, 1.5) * np.clip(near / 12 - 0.5, 0, 1)
    ground = stage.finish(stage.one_of(*painters[:3]), stage.rng.uniform(3, 5), 512, casts=False)
    stage.build.add_mesh(meshes.height_field(relief, extent), ground)
    for _ in range(int(stage.rng.integers(2, 6))):
        patch = stage.finish(stage.one_of(*painters), stage.rng.uniform(4, 8), casts=False)
        at = stage.rng.uniform(-30, 30, 2)
        half = (stage.rng.uniform(4, 14), stage.rng.uniform(4, 14), 0.02)
        stage.build.add(str(stage.rng.choice(["box", "cylinder"])), (*at, 0.0), half, patch, turn(roads[0][0]))
