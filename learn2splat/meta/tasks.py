"""Training tasks: captures, thinned and disturbed at random, so that none of it is new to the optimizer in use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import PointCloud, SceneData
from learn2splat.data.resize import PhotoStack, shrink
from learn2splat.densify.base import MAX_GAUSSIANS
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.initialise import from_points
from learn2splat.scene.neighbours import nearest_neighbours, neighbour_distances
from learn2splat.scene.random_points import random_points

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class TaskRanges:
    """What is drawn for a task; pairs are (low, high).

    Args:
        gaussians: number of Gaussians, log-uniform.
        share_holes: how often points are missing where they are sparse: reconstructions have few on plain walls.
        holes: share of the points that is missing then.
        share_crowded: how often missing points are made up by copies of others beside them.
        long_side: of the photos in pixels.
        few_views: training views of a data-poor task.
        share_few: how often a task is data-poor.
        share_views: of the views, for all other tasks.
        opacity: initial opacity.
        log_scale_sigma: of the factor on the initial scales.
        share_moved: how often positions are disturbed, by up to ``moved`` of the point spacing.
        share_random_init: how often the points are replaced by random ones.
        share_gain, gain: how often, and how far, the channels of all photos are scaled.
        share_jitter, jitter: how often, and how far (sigma of the logarithm), each photo's exposure differs.
        share_pose_noise, pose_noise_px: how often, and how far (sigma), each camera looks beside its true direction.
        share_background: how often the background is a random colour instead of black.
        share_densify: how often the Gaussians of a task multiply and die; 0 until it is measured what it is worth.
        densifiers: names of files of ``configs/densify`` to choose from.
        growth: cap on the number of Gaussians of such a task, in multiples of its start.
        share_sh_steps: how often the degree of the harmonics of such a task is raised step by step.
        sh_degrees: to choose from.
        batch_views: to choose from.
    """

    gaussians: tuple[int, int] = (300, 2000)
    share_holes: float = 0.0
    holes: tuple[float, float] = (0.05, 0.5)
    share_crowded: float = 0.3
    long_side: tuple[int, int] = (48, 96)
    few_views: tuple[int, int] = (3, 15)
    share_few: float = 0.35
    share_views: tuple[float, float] = (0.5, 1.0)
    opacity: tuple[float, float] = (0.05, 0.3)
    log_scale_sigma: float = 0.3
    share_moved: float = 0.3
    moved: float = 0.5
    share_random_init: float = 0.05
    share_gain: float = 0.3
    gain: tuple[float, float] = (0.75, 1.25)
    share_jitter: float = 0.5
    jitter: float = 0.08
    share_pose_noise: float = 0.5
    pose_noise_px: float = 0.4
    share_background: float = 0.2
    share_densify: float = 0.0
    densifiers: Sequence[str] = ("default", "mcmc")
    growth: tuple[float, float] = (1.5, 4.0)
    share_sh_steps: float = 0.5
    sh_degrees: Sequence[int] = (1, 2, 3, 3)
    batch_views: Sequence[int] = (1, 2, 4, 4, 4, 8)

    def draw(self, scene: SceneData, generator: torch.Generator) -> Task:
        """A random variation of ``scene``; see `draw_task`."""
        return draw_task(scene, self, generator)


@dataclass(frozen=True)
class Task:
    """A scene to optimise: ``data.train`` are its views, ``data.test`` judge the optimizer.

    Args:
        data: photos and cameras.
        initial: where it starts.
        background: [3] colour behind the scene.
        batch_views: views per step.
        seed: of the order of views and of densification.
        densify: the file of ``configs/densify`` that its Gaussians multiply and die by.
        max_gaussians: how many there may be.
        sh_steps: whether the degree of its harmonics is raised step by step.
        features: [N, C] what an initialiser knows about the initial Gaussians, or None.
    """

    data: SceneData
    initial: GaussianScene
    background: Tensor
    batch_views: int
    seed: int
    densify: str = "none"
    max_gaussians: int = MAX_GAUSSIANS
    sh_steps: bool = False
    features: Tensor | None = None


def draw_task(scene: SceneData, ranges: TaskRanges, generator: torch.Generator) -> Task:
    """A random variation of ``scene``.

    Args:
        scene: all its views may be used, held-out ones too: it is a training scene.
        ranges: of the variation.
        generator: source of all randomness.
    """
    uniform = _Uniform(generator)
    long_side = round(uniform.between(*ranges.long_side))
    data = shrink(scene, long_side)
    train, held = _split(len(data.cameras), ranges, uniform)
    if uniform.chance(ranges.share_gain):
        gain = torch.tensor([uniform.between(*ranges.gain) for _ in range(3)])
        data = replace(data, photos=PhotoStack(tuple(_scaled(data.photos[v], gain) for v in range(len(data.photos)))))
    if uniform.chance(ranges.share_jitter):
        gains = torch.exp(ranges.jitter * torch.randn(len(data.photos), generator=generator))
        data = replace(data, photos=PhotoStack(tuple(_scaled(data.photos[v], g) for v, g in enumerate(gains))))
    if uniform.chance(ranges.share_pose_noise):
        data = replace(data, cameras=turned(data.cameras, ranges.pose_noise_px, generator))
    data = replace(data, train=train, test=held)
    background = torch.rand(3, generator=generator) if uniform.chance(ranges.share_background) else torch.zeros(3)
    task = Task(
        data=data,
        initial=_initial(data, ranges, uniform),
        background=background,
        batch_views=min(uniform.choice(ranges.batch_views), len(train)),
        seed=uniform.integer(2**31),
    )
    if not ranges.share_densify or not uniform.chance(ranges.share_densify):
        return task
    return replace(
        task,
        densify=uniform.choice(ranges.densifiers),
        max_gaussians=round(len(task.initial) * uniform.between(*ranges.growth)),
        sh_steps=uniform.chance(ranges.share_sh_steps),
    )


def turned(cameras: Cameras, noise_px: float, generator: torch.Generator) -> Cameras:
    """Cameras that look beside their true direction by about ``noise_px`` pixels, as reconstructed ones do."""
    count = len(cameras)
    focal = torch.sqrt(cameras.K[:, 0, 0] * cameras.K[:, 1, 1])[:, None]
    angles = noise_px * torch.randn(count, 3, generator=generator) / focal
    generators = torch.zeros(count, 3, 3)
    generators[:, 2, 1], generators[:, 0, 2], generators[:, 1, 0] = angles.unbind(-1)
    rotation = torch.linalg.matrix_exp(generators - generators.mT)
    poses = cameras.cam_from_world.clone()
    poses[:, :3] = rotation.to(poses) @ poses[:, :3]  # about the camera's centre
    return replace(cameras, cam_from_world=poses)


def crowded(points: PointCloud, count: int, generator: torch.Generator) -> PointCloud:
    """``points`` and copies of some of them, about a neighbour's distance away: ``count`` in all."""
    chosen = torch.randint(len(points), (count - len(points),), generator=generator)
    nearest = nearest_neighbours(points.positions_world, 1)[chosen, 0].long()
    positions = points.positions_world[chosen]
    apart = (points.positions_world[nearest] - positions).norm(dim=1, keepdim=True)
    noise = torch.randn(positions.shape, generator=generator) / math.sqrt(3)
    return PointCloud(
        torch.cat([points.positions_world, positions + apart * noise]),
        torch.cat([points.colors, points.colors[chosen]]),
    )


def without_sparsest(points: PointCloud, share: float) -> PointCloud:
    """``points`` without the ``share`` of them that is furthest from its three nearest neighbours."""
    nearest = nearest_neighbours(points.positions_world, 3)
    distances = neighbour_distances(points.positions_world, nearest).mean(dim=1)
    keep = distances.argsort(stable=True)[: len(points) - round(share * len(points))].sort().values
    return PointCloud(points.positions_world[keep], points.colors[keep])


class _Uniform:
    """Small draws from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_between(self, low: float, high: float) -> float:
        return math.exp(self.between(math.log(low), math.log(high)))

    def chance(self, share: float) -> bool:
        return self.between(0, 1) < share

    def integer(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self.generator))

    def choice(self, values: Sequence[Choice]) -> Choice:
        return values[self.integer(len(values))]

    def sample(self, count: int, size: int) -> list[int]:
        return sorted(torch.randperm(count, generator=self.generator)[:size].tolist())


def _split(views: int, ranges: TaskRanges, uniform: _Uniform) -> tuple[list[int], list[int]]:
    """Training and held-out views: at least a fifth, and two, are held out."""
    held_least = min(max(2, round(0.2 * views)), views - 1)
    most = views - held_least
    if uniform.chance(ranges.share_few):
        low, high = ranges.few_views
        count = round(uniform.log_between(min(low, most), min(high, most)))
    else:
        count = round(most * uniform.between(*ranges.share_views))
    train = uniform.sample(views, max(1, min(count, most)))
    return train, [view for view in range(views) if view not in train]


def _scaled(photo: Tensor, gain: Tensor) -> Tensor:
    return (photo.float() * gain).round().clamp(0, 255).byte()


def _initial(data: SceneData, ranges: TaskRanges, uniform: _Uniform) -> GaussianScene:
    generator = uniform.generator
    count = round(uniform.log_between(*ranges.gaussians))
    points = data.points
    if points is None or len(points) < 50 or uniform.chance(ranges.share_random_init):
        points = random_points(data.cameras.take(list(data.train)), count, generator)
    elif ranges.share_holes and uniform.chance(ranges.share_holes):
        points = without_sparsest(points, uniform.between(*ranges.holes))
    if len(points) > count:
        keep = torch.randperm(len(points), generator=generator)[:count].sort().values
        points = PointCloud(points.positions_world[keep], points.colors[keep])
    elif len(points) < count and uniform.chance(ranges.share_crowded):
        points = crowded(points, count, generator)
    scene = from_points(points, uniform.choice(ranges.sh_degrees), uniform.between(*ranges.opacity))
    spacing = scene.log_scales[:, :1].exp()
    factor = ranges.log_scale_sigma * float(torch.randn((), generator=generator))
    means = scene.means
    if uniform.chance(ranges.share_moved):
        noise = torch.randn(means.shape, generator=generator)
        means = means + noise * spacing * uniform.between(0, ranges.moved)
    return replace(scene, means=means, log_scales=scene.log_scales + factor)
