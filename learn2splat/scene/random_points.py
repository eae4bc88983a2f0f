"""Random points in front of cameras: where a scene without sparse points starts."""

from __future__ import annotations

import math

import torch

from learn2splat.cameras import Cameras
from learn2splat.data.base import PointCloud


def random_points(cameras: Cameras, count: int, generator: torch.Generator) -> PointCloud:
    """Grey points spread over what the cameras see: random view, random pixel, log-uniform depth.

    Depths lie between 0.3 and 3 times the distance at which the cameras look.

    Args:
        cameras: V >= 1 views.
        count: number of points.
        generator: source of all randomness.
    """
    view = torch.randint(len(cameras), (count,), generator=generator)
    uv = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    uv *= torch.stack([cameras.widths, cameras.heights], dim=-1)[view].double()
    low, high = math.log(0.3), math.log(3.0)
    depth = torch.exp(torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low)
    depth *= focus_distance(cameras)
    pixels = torch.cat([uv, torch.ones(count, 1, dtype=torch.float64)], dim=-1)
    rays = torch.linalg.solve(cameras.K.double()[view], pixels[..., None])[..., 0]
    rotation = cameras.cam_from_world.double()[view][:, :3, :3]
    positions = (rotation.mT @ (rays * depth[:, None])[..., None])[..., 0] + cameras.centers_world.double()[view]
    return PointCloud(positions.float(), torch.full((count, 3), 0.5))


def focus_distance(cameras: Cameras) -> float:
    """Typical distance from the cameras to the point that their axes come closest to (world units).

    Parallel axes have no such point: then twice the extent of the rig, or 1 for a single camera.
    """
    centers, axes = cameras.centers_world.double(), cameras.cam_from_world[:, 2, :3].double()
    across = torch.eye(3).to(axes) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(dim=0)
    fallback = 2.0 * cameras.extent_world or 1.0
    if float(torch.linalg.eigvalsh(normal)[0]) < 1e-2 * len(cameras):
        return fallback
    focus = torch.linalg.solve(normal, (across @ centers[..., None]).sum(dim=0)[:, 0])
    distance = float(((focus - centers) * axes).sum(dim=-1).median())
    return distance if distance > 0 else fallback
