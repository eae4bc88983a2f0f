"""How a camera moves through a scene: around it, or from one view to the next."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from learn2splat.cameras import Cameras

FULL_CIRCLE_GAP = math.radians(120)
"""Cameras that leave no larger gap around what they look at are circled; others are swung along."""
LEAST_SWING = math.radians(5)
RIDGE = 1e-2
"""Pull of the focus towards a point in front of the cameras, so that parallel axes have one."""


def orbit(cameras: Cameras, frames: int) -> Cameras:
    """A closed path around what ``cameras`` look at, at their median height and distance.

    A full circle where they surround it; otherwise a swing to and fro over the angle that they cover.

    Args:
        cameras: V >= 1 views.
        frames: number of cameras of the path, of the size and intrinsics of the first view.
    """
    centers = cameras.centers_world.double().cpu()
    target, up = focus_world(cameras), up_world(cameras)
    offsets = centers - target
    heights = offsets @ up
    radial = offsets - heights[:, None] * up
    east = _any_perpendicular(up)
    north = torch.linalg.cross(up, east)
    azimuths = torch.atan2(radial @ north, radial @ east).sort().values
    gaps = torch.cat([azimuths[1:], azimuths[:1] + 2 * math.pi]) - azimuths
    widest = int(gaps.argmax())
    phase = 2 * math.pi * torch.arange(frames, dtype=torch.float64) / frames
    if float(gaps[widest]) <= FULL_CIRCLE_GAP:
        angles = azimuths[0] + phase
    else:
        covered = 2 * math.pi - float(gaps[widest])
        first = azimuths[(widest + 1) % len(azimuths)]
        angles = first + covered / 2 + max(covered / 2, LEAST_SWING) * phase.sin()
    ring = angles.cos()[:, None] * east + angles.sin()[:, None] * north
    eyes = target + float(heights.median()) * up + float(radial.norm(dim=-1).median()) * ring
    return _like_first(cameras, torch.stack([looking_at(eye, target, up) for eye in eyes]))


def interpolated(cameras: Cameras, frames: int) -> Cameras:
    """A smooth path through all views in their order: cubic splines of the centres and of the rotations.

    View i is met exactly at the fraction i / (V - 1) of the path.

    Args:
        cameras: V >= 1 views.
        frames: number of cameras of the path, of the size and intrinsics of the first view.
    """
    if len(cameras) == 1:
        return _like_first(cameras, cameras.cam_from_world.double().cpu().expand(frames, 4, 4).clone())
    keys = np.arange(len(cameras))
    times = np.linspace(0, len(cameras) - 1, frames)
    poses = cameras.cam_from_world.double().cpu().numpy()
    rotations = RotationSpline(keys, Rotation.from_matrix(poses[:, :3, :3]))(times).as_matrix()
    centers = CubicSpline(keys, cameras.centers_world.double().cpu().numpy(), bc_type="natural")(times)
    path = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    path[:, :3, :3] = torch.from_numpy(rotations)
    path[:, :3, 3] = torch.from_numpy(-(rotations @ centers[:, :, None])[..., 0])
    return _like_first(cameras, path)


def tour(cameras: Cameras, frames: int) -> Cameras:
    """An `orbit` where most views look at one thing, else the path through them (`interpolated`)."""
    towards = focus_world(cameras) - cameras.centers_world.double().cpu()
    ahead = (towards * cameras.cam_from_world[:, 2, :3].double().cpu()).sum(dim=-1) > 0
    return (orbit if float(ahead.double().mean()) > 0.8 else interpolated)(cameras, frames)


def facing(points_world: Tensor, width: int, height: int) -> Cameras:
    """Four level cameras around a cloud [N, 3] that comes without any, at thrice its median radius; up is -y."""
    points = points_world.double().cpu()
    center = points.median(dim=0).values if len(points) else torch.zeros(3, dtype=torch.float64)
    distance = 3 * float((points - center).norm(dim=-1).median()) if len(points) else 1.0
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    sides = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)
    poses = torch.stack([looking_at(center + (distance or 1.0) * side, center, up) for side in sides])
    focal = 0.5 * max(width, height) / math.tan(math.radians(30))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras.of_one_size(K.repeat(4, 1, 1), poses.float(), width, height)


def sized(cameras: Cameras, longest: int) -> Cameras:
    """The views with sides of at most ``longest`` pixels, and even ones, as films want."""
    scale = min(1.0, longest / int(torch.maximum(cameras.widths, cameras.heights).max()))
    even = [(2 * (sizes * scale / 2).round()).clamp_min(2).long() for sizes in (cameras.widths, cameras.heights)]
    return cameras.resized(*even)


def focus_world(cameras: Cameras) -> Tensor:
    """[3] float64: the point closest to all optical axes, in the sense of least squares."""
    centers = cameras.centers_world.double().cpu()
    forward = cameras.cam_from_world[:, 2, :3].double().cpu()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    ahead = centers.mean(dim=0) + forward.mean(dim=0) * (cameras.extent_world or 1.0)
    matrix = across.mean(dim=0) + RIDGE * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(matrix, (across @ centers[:, :, None]).mean(dim=0)[:, 0] + RIDGE * ahead)


def up_world(cameras: Cameras) -> Tensor:
    """[3] float64 unit vector: the mean upward axis of the cameras; of those that look down, away from the ground."""
    rotation = cameras.cam_from_world[:, :3, :3].double().cpu().mean(dim=0)
    axis = -rotation[1] if float(rotation[1].norm()) > 0.3 else -rotation[2]
    return axis / axis.norm().clamp_min(1e-12)


def looking_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """[4, 4] ``cam_from_world`` of a level camera at ``eye`` that looks at ``target``; all [3] float64."""
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm() if float(right.norm()) > 1e-6 else _any_perpendicular(forward)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    return pose


def _any_perpendicular(axis: Tensor) -> Tensor:
    """[3] unit vector."""
    other = torch.zeros_like(axis)
    other[int(axis.abs().argmin())] = 1.0
    return torch.nn.functional.normalize(torch.linalg.cross(axis, other), dim=0)


def _like_first(cameras: Cameras, cam_from_world: Tensor) -> Cameras:
    K = cameras.K[:1].expand(len(cam_from_world), 3, 3).clone()
    return Cameras.of_one_size(K, cam_from_world.to(K), int(cameras.widths[0]), int(cameras.heights[0]))
