"""Procedural scenes as a scene source, with their ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.procedural import exteriors, interiors
from learn2splat.data.procedural.paths import eyes
from learn2splat.data.procedural.points import SparsePoints, find_points, usual_count
from learn2splat.data.procedural.raycast import Eye
from learn2splat.data.procedural.render import Camera
from learn2splat.data.procedural.sensor import develop
from learn2splat.data.procedural.spec import PREFIX, THEMES, ProceduralSpec, is_spec
from learn2splat.data.procedural.threads import serial_torch
from learn2splat.data.procedural.world import World
from learn2splat.data.views import train_test_split

_WORLDS: dict[str, Callable[[np.random.Generator], World]] = {
    "tabletop": interiors.tabletop,
    "floor_object": interiors.floor_object,
    "wall": interiors.wall,
    "room": interiors.room,
    "garden": exteriors.garden,
    "facade": exteriors.facade,
    "street": exteriors.street,
    "aerial": exteriors.aerial,
}

# Streams of random numbers: more views or pixels leave the world as it is.
_CHOICE, _WORLD, _PATH, _SENSOR, _POINTS = range(5)


@dataclass(frozen=True)
class ProceduralScene:
    """A scene and what only its maker knows.

    Args:
        data: what an optimiser gets.
        alpha: [V, H, W] float32, share of each pixel covered by something nearer than the far surroundings.
        depth: [V, H, W] float32, camera depth z at the pixel centres in world units, 0 where there is none.
        sparse: the sparse points with their tracks, noise and outliers.
        spec: as asked; path, theme: as drawn.
    """

    data: SceneData
    alpha: Tensor
    depth: Tensor
    sparse: SparsePoints
    spec: ProceduralSpec
    path: str
    theme: str


def _choose(spec: ProceduralSpec) -> tuple[str, str]:
    rng = np.random.default_rng([spec.seed, _CHOICE])
    pairs = [(path, theme) for path, themes in THEMES.items() for theme in themes]
    legal = [p for p in pairs if spec.path in ("auto", p[0]) and spec.theme in ("auto", p[1])]
    return legal[int(rng.integers(len(legal)))]


def _cameras(views: list[Eye]) -> Cameras:
    pose, K = np.tile(np.eye(4), (len(views), 1, 1)), np.tile(np.eye(3), (len(views), 1, 1))
    for index, eye in enumerate(views):
        pose[index, :3, :3] = eye.world_from_cam.T
        pose[index, :3, 3] = -eye.world_from_cam.T @ eye.center
        K[index, 0] = eye.fx, 0, eye.cx
        K[index, 1] = 0, eye.fy, eye.cy
    tensors = torch.from_numpy(K).float(), torch.from_numpy(pose).float()
    return Cameras.of_one_size(*tensors, views[0].width, views[0].height)


def make_scene(spec: ProceduralSpec, *, workers: int = 2) -> ProceduralScene:
    """Build, photograph and sparsely reconstruct the world of ``spec``.

    Args:
        spec: what to make; equal specs give equal bits on one machine.
        workers: threads that render; the result does not depend on it.
    """
    with serial_torch():
        return _make(spec, workers)


def _make(spec: ProceduralSpec, workers: int) -> ProceduralScene:
    path, theme = _choose(spec)
    stream = {name: np.random.default_rng([spec.seed, name]) for name in (_WORLD, _PATH, _SENSOR, _POINTS)}
    world = _WORLDS[theme](stream[_WORLD])
    views = eyes(path, stream[_PATH], spec.views, spec.size, world)
    shadow_side = int(np.clip(4 * max(spec.size), 256, 2048))
    pictures = Camera(world, shadow_side).shoot_all(views, workers)
    photos = develop(pictures, stream[_SENSOR], exposure=spec.exposure, vignette=spec.vignette, noise=spec.noise)
    depth = torch.stack([picture.depth for picture in pictures])
    count = usual_count(stream[_POINTS], spec.views, *spec.size) if spec.points is None else spec.points
    sparse = find_points(views, photos, depth, count, stream[_POINTS])
    train, test = train_test_split(spec.views, spec.test_every)
    data = SceneData(
        name=f"{theme}-{spec.seed}",
        cameras=_cameras(views),
        photos=photos,
        image_names=[f"{i:04d}.png" for i in range(spec.views)],
        points=sparse.cloud,
        train=train,
        test=test,
        depths=depth,
    )
    return ProceduralScene(data, torch.stack([p.alpha for p in pictures]), depth, sparse, spec, path, theme)


class ProceduralSource:
    """Scenes named by a text such as ``procedural:seed=3,views=20``."""

    name = "procedural"
    looks_for = f"a text such as {PREFIX}seed=3,views=20,width=128,path=ring"

    def recognises(self, path: Path | str) -> bool:
        """Whether ``path`` is a procedural spec."""
        return is_spec(str(path))

    def load(self, path: Path | str, *, max_size: int, test_every: int) -> SceneData:
        """Make the scene that ``path`` describes.

        Args:
            path: the text of a spec; a ``test_every`` in it takes precedence.
            max_size: bound of the long side in pixels; larger specs are rendered smaller.
            test_every: every n-th view is held out; 0 holds out none.

        Raises:
            BadSceneError: an unknown key or bad value; names what is legal.
        """
        try:
            spec = ProceduralSpec.parse(str(path))
            if "test_every=" not in str(path):
                spec = replace(spec, test_every=test_every)
            width, height = spec.size
            if max(width, height) > max_size:
                scale = max_size / max(width, height)
                spec = replace(spec, width=round(width * scale), height=round(height * scale))
        except ValueError as error:
            raise BadSceneError(str(error)) from error
        return make_scene(spec).data
