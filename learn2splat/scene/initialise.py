"""Where an optimisation starts: Gaussians from sparse points, at random, or from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from learn2splat.data.base import PointCloud, SceneData
from learn2splat.data.point_cloud import read_point_ply, read_vertices, usable_points
from learn2splat.errors import UserError
from learn2splat.scene.gaussians import GaussianScene, rgb_to_sh0
from learn2splat.scene.hull import hull_points
from learn2splat.scene.ply import read_ply
from learn2splat.scene.random_points import random_points

INITIAL_OPACITY = 0.1
NEIGHBOURS = 3


def initial_scene(
    data: SceneData,
    train: Sequence[int],
    kind: str = "auto",
    *,
    sh_degree: int = 3,
    random_count: int = 10_000,
    max_gaussians: int | None = None,
    seed: int = 0,
) -> GaussianScene:
    """The scene that an optimisation of ``data`` starts from.

    Args:
        data: the capture.
        train: views that are optimised on; random points are spread over what they see.
        kind: "sfm", "hull" (inside the visual hull of transparent photos), "random", "ply:FILE" (Gaussians or points),
            or "auto" (sfm when there are points, else hull when there is one, else random).
        sh_degree: degree of the harmonics to allocate.
        random_count: Gaussians of an initialisation at random or in the hull.
        max_gaussians: a larger scene is thinned at random.
        seed: of all randomness.

    Raises:
        UserError: ``kind`` is none of these, or there are no points, or the file is bad.
    """
    generator = torch.Generator().manual_seed(seed)
    name, _, file = kind.partition(":")
    has_points = data.points is not None and len(data.points) > 0
    if name == "ply" and file:
        scene = from_file(Path(file), sh_degree)
    elif kind == "sfm" and not has_points:
        raise UserError(f"{data.name}: it has no sparse points; use --init random")
    elif kind in ("auto", "sfm") and data.points is not None and has_points:
        scene = from_points(data.points, sh_degree)
    elif kind in ("auto", "hull", "random"):
        scene = from_points(_scattered(data, train, kind, random_count, generator), sh_degree)
    else:
        raise UserError(f"init={kind!r}: give auto, sfm, hull, random, ply:FILE or predict[:FOLDER]")
    return scene.take(kept_rows(len(scene), max_gaussians, generator))


def _scattered(data: SceneData, train: Sequence[int], kind: str, count: int, generator: torch.Generator) -> PointCloud:
    """Random points, inside the visual hull where one is asked for or, with "auto", there is one."""
    hull = None if kind == "random" else hull_points(data, train, count, generator)
    if hull is None and kind == "hull":
        raise UserError(f"{data.name}: its photos are opaque, or no place is opaque in all of them; use --init random")
    return hull or random_points(data.cameras.take(list(train)), count, generator)


def kept_rows(count: int, most: int | None, generator: torch.Generator) -> Tensor:
    """Ascending rows of ``count`` Gaussians, at most ``most`` of them, chosen at random."""
    if most is None or count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values


def from_file(path: Path, sh_degree: int = 3) -> GaussianScene:
    """The Gaussians of a PLY, or one Gaussian per point of a PLY of plain or coloured points.

    Raises:
        BadPlyError: the file is bad, or one of Gaussians that lacks some of their properties.
        BadSceneError: the file is bad.
        UserError: there is no point that can be used.
    """
    if {"f_dc_0", "opacity", "scale_0", "rot_0"} & set(read_vertices(path).dtype.names or ()):
        return read_ply(path).with_sh_degree(sh_degree)
    points = usable_points(*read_point_ply(path), [])
    if points is None:
        raise UserError(f"{path}: it holds no point with a finite position; use --init random")
    return from_points(points, sh_degree)


def from_points(points: PointCloud, sh_degree: int = 3, opacity: float = INITIAL_OPACITY) -> GaussianScene:
    """One isotropic Gaussian per point, as large as the point is far from its neighbours (3DGS).

    Args:
        points: P points, P >= 1.
        sh_degree: degree of the harmonics to allocate; those above 0 start at zero.
        opacity: initial opacity, in (0, 1).

    Raises:
        ValueError: there are no points.
    """
    if len(points) == 0:
        raise ValueError("cannot initialise from 0 points; use --init random")
    spacing = neighbour_spacing(points.positions_world)
    count = len(points)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1.0
    return GaussianScene(
        means=points.positions_world.float().clone(),
        log_scales=spacing.log()[:, None].repeat(1, 3),
        quats=quats,
        logit_opacities=torch.full((count,), math.log(opacity / (1 - opacity))),
        sh=rgb_to_sh0(points.colors.float())[:, None].clone(),
    ).with_sh_degree(sh_degree)


def neighbour_spacing(positions: Tensor) -> Tensor:
    """[P] root mean square distance to the 3 nearest other points, never 0 (world units)."""
    count = positions.shape[0]
    if count == 1:
        return torch.ones(1)
    points = positions.double().numpy()
    distances = np.asarray(cKDTree(points).query(points, k=min(NEIGHBOURS + 1, count), workers=-1)[0])
    spacing = np.sqrt(np.mean(np.square(distances[:, 1:]), axis=1))
    positive = spacing[spacing > 0]
    floor = float(np.median(positive)) * 1e-2 if positive.size else 1.0  # coincident points
    return torch.from_numpy(np.maximum(spacing, floor)).float()
