"""Sparse points as structure from motion would find them, from exact depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.data.base import PointCloud
from learn2splat.data.colmap_writer import Tracks
from learn2splat.data.procedural.arrays import Array, Rng
from learn2splat.data.procedural.raycast import Eye

OUTLIERS = 0.03
"""Share of points that are wrong matches."""

_REPEAT = (0.15, 0.8)
_TURN = 0.8
_DEPTH_TOLERANCE = 0.01
_SMOOTH = 1.2
_LARGEST_DEPTH_ERROR = 0.05


@dataclass(frozen=True)
class SparsePoints:
    """Points with what is known about them.

    Args:
        cloud: P points.
        tracks: their observations, two views or more each.
        sigma: [P, 2] standard deviation across and along the viewing ray, in world units.
        outlier: [P] bool, wrong matches.
    """

    cloud: PointCloud
    tracks: Tracks
    sigma: Array
    outlier: NDArray[np.bool_]


def usual_count(rng: Rng, views: int, width: int, height: int) -> int:
    """How many points reconstructions of real photos of this size keep (1.7k-11k of 11-50 photos at 512 px)."""
    share = width * height / (512 * 384)
    return int(4500 * share**0.75 * (views / 18) ** 0.5 * np.exp(rng.normal(0, 0.3)))


def _range(depth: Array) -> tuple[Array, Array]:
    """Smallest and largest depth [H, W] among the pixels around each."""
    return cv2.erode(depth, np.ones((3, 3))).astype(float), cv2.dilate(depth, np.ones((3, 3))).astype(float)


def _corners(photo: Tensor, depth: Tensor, count: int, rng: Rng) -> NDArray[np.int64]:
    """Pixels (x, y) [n, 2] on a surface where the photo has corners, stronger ones more likely."""
    gray = cv2.cvtColor(photo.numpy(), cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = cv2.cornerMinEigenVal(gray, 3)
    z = depth.numpy()
    near, far = _range(z)
    usable = (near > 0) & (far < _SMOOTH * near) & (strength >= cv2.dilate(strength, np.ones((3, 3))))
    usable[:2], usable[-2:], usable[:, :2], usable[:, -2:] = False, False, False, False
    y, x = np.nonzero(usable)
    if not len(x):
        return np.zeros((0, 2), np.int64)
    # Gumbel keys: a draw without replacement with weights that grow with corner strength.
    keys = 0.7 * np.log(strength[y, x] + 1e-3) + rng.gumbel(size=len(x))
    best = np.argsort(-keys, kind="stable")[:count]
    return np.stack([x[best], y[best]], 1)


def _project(eye: Eye, points: Array) -> tuple[Array, Array]:
    local = (points - eye.center) @ eye.world_from_cam
    z = np.where(local[:, 2] > 1e-6, local[:, 2], np.nan)
    return np.stack([local[:, 0] / z * eye.fx + eye.cx, local[:, 1] / z * eye.fy + eye.cy], 1), z


def _unproject(eye: Eye, pixel: Array, z: Array) -> Array:
    ray = np.column_stack([(pixel[:, 0] - eye.cx) / eye.fx, (pixel[:, 1] - eye.cy) / eye.fy, np.ones(len(pixel))])
    return eye.center + (ray * z[:, None]) @ eye.world_from_cam.T


def _visible(eye: Eye, depth: Array, points: Array) -> NDArray[np.bool_]:
    """Which points [P] this eye sees, by its depth map [H, W]."""
    pixel, z = _project(eye, points)
    inside = (pixel >= 0).all(1) & (pixel[:, 0] < eye.width) & (pixel[:, 1] < eye.height)
    x, y = np.where(inside[:, None], pixel, 0).astype(np.int64).T
    near, far = _range(depth)
    fits = (z > near[y, x] * (1 - _DEPTH_TOLERANCE)) & (z < far[y, x] * (1 + _DEPTH_TOLERANCE))
    return inside & (depth[y, x] > 0) & fits & (far[y, x] < _SMOOTH * near[y, x])


def _candidates(
    eyes: Sequence[Eye], photos: Sequence[Tensor], depth: Tensor, count: int, rng: Rng
) -> tuple[Array, NDArray[np.int64], Array]:
    """Exact surface points, the view that proposed each, and its colour."""
    places, sources, colors = [], [], []
    for view, eye in enumerate(eyes):
        pixel = _corners(photos[view], depth[view], count, rng)
        z = depth[view].numpy()[pixel[:, 1], pixel[:, 0]].astype(float)
        places.append(_unproject(eye, pixel.astype(float) + 0.5, z))
        sources.append(np.full(len(pixel), view))
        colors.append(photos[view].numpy()[pixel[:, 1], pixel[:, 0]].astype(float) / 255.0)
    return np.concatenate(places), np.concatenate(sources), np.concatenate(colors)


def _tracks_of(
    eyes: Sequence[Eye], depth: Tensor, points: Array, source: NDArray[np.int64], rng: Rng
) -> NDArray[np.bool_]:
    """[V, P] which views match which point: those that see it from not too different a side, and are lucky."""
    rays = np.stack([eye.center for eye in eyes])[:, None] - points
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    first = rays[source, np.arange(len(points))]
    angle = np.arccos(np.clip((rays * first).sum(-1), -1, 1))
    # Few corners are found again everywhere: each has its own chance, and none survives a large turn.
    chance = rng.uniform(*_REPEAT, len(points)) * np.exp(-((angle / _TURN) ** 2))
    seen = np.stack([_visible(eye, d, points) for eye, d in zip(eyes, depth.numpy(), strict=True)])
    matched = seen & (rng.random(seen.shape) < chance)
    # Matchers look hardest among neighbours: some corners are found again just where the turn is least.
    angle[source, np.arange(len(points))] = np.inf
    nearest = np.where(seen, angle, np.inf).argmin(0)
    lucky = seen[nearest, np.arange(len(points))] & (rng.random(len(points)) < 0.4) & (angle.min(0) < 2 * _TURN)
    matched[nearest[lucky], np.flatnonzero(lucky)] = True
    matched[source, np.arange(len(points))] = True
    return matched


def _spread(
    eyes: Sequence[Eye], points: Array, source: NDArray[np.int64], matched: NDArray[np.bool_], sigma_px: float
) -> tuple[Array, Array, Array]:
    """Standard deviations across and along the ray [P, 2], the unit rays [P, 3], and depths along them [P]."""
    centers = np.stack([eye.center for eye in eyes])
    ray = points - centers[source]
    distance = np.linalg.norm(ray, axis=1)
    ray = ray / distance[:, None]
    offset = centers[:, None] - centers[source]
    sideways = np.linalg.norm(offset - (offset * ray).sum(-1, keepdims=True) * ray, axis=-1)
    baseline = np.where(matched, sideways, 0.0).max(0)
    across = sigma_px * distance / eyes[0].fx / np.sqrt(matched.sum(0))
    along = across * distance / np.maximum(baseline, 1e-9)
    return np.stack([across, np.maximum(along, across)], 1), ray, distance


def _well_placed(lengths: NDArray[np.int64], error: Array, count: int, rng: Rng) -> NDArray[np.int64]:
    """At most ``count`` of the points seen twice whose relative depth error is small, in ascending order."""
    good = np.flatnonzero((lengths >= 2) & (error < _LARGEST_DEPTH_ERROR))
    if len(good) < count // 3:  # hardly any parallax: a mapper in need takes the best of what there is
        fair = np.flatnonzero((lengths >= 2) & (error < 10 * _LARGEST_DEPTH_ERROR))
        good = fair[np.argsort(error[fair], kind="stable")[: count // 3]]
    return np.sort(rng.permutation(good)[:count])


def find_points(eyes: Sequence[Eye], photos: Sequence[Tensor], depth: Tensor, count: int, rng: Rng) -> SparsePoints:
    """Points of a simulated reconstruction.

    Args:
        eyes: V views; photos: V uint8 [H, W, 3]; depth: [V, H, W] camera depth, 0 where nothing is.
        count: how many points; fewer come back where the pictures do not hold that many.
        rng: draws corners, matches, noise and outliers.
    """
    sigma_px = 0.3 * min(1.0, eyes[0].width / 512) ** 0.5
    truth, source, colors = _candidates(eyes, photos, depth, 8 + int(2.5 * count / len(eyes)), rng)
    matched = _tracks_of(eyes, depth, truth, source, rng)
    sigma, ray, distance = _spread(eyes, truth, source, matched, sigma_px)
    good = _well_placed(matched.sum(0), sigma[:, 1] / distance, count, rng)
    truth, source, colors, matched, sigma, ray, distance = (
        truth[good], source[good], colors[good], matched[:, good], sigma[good], ray[good], distance[good]
    )  # fmt: skip
    outlier = rng.random(len(good)) < OUTLIERS
    noise = rng.normal(size=(len(good), 3)) * sigma[:, :1]
    noise += ray * ((rng.normal(size=(len(good), 1)) * sigma[:, 1:]) - (noise * ray).sum(1, keepdims=True))
    wrong = ray * (distance * np.exp(rng.normal(0, 0.4, len(good))) - distance)[:, None]
    positions = truth + np.where(outlier[:, None], wrong, noise)
    tracks = _observe(eyes, np.where(outlier[:, None], positions, truth), matched, source, outlier, sigma_px, rng)
    colors = np.clip(colors + rng.normal(0, 0.02, colors.shape), 0, 1)
    cloud = PointCloud(torch.from_numpy(positions).float(), torch.from_numpy(colors).float())
    return SparsePoints(cloud, tracks, sigma, outlier)


def _observe(
    eyes: Sequence[Eye],
    points: Array,
    matched: NDArray[np.bool_],
    source: NDArray[np.int64],
    outlier: NDArray[np.bool_],
    sigma_px: float,
    rng: Rng,
) -> Tracks:
    """Noisy observations of what was matched; a wrong match is seen by its source and one other view."""
    matched = matched.copy()
    for index in np.flatnonzero(outlier).tolist():
        others = np.flatnonzero(matched[:, index] & (np.arange(len(eyes)) != source[index]))
        matched[:, index] = False
        matched[[source[index], others[0]], index] = True
    view, point = np.nonzero(matched)
    xy = np.zeros((len(view), 2))
    for index, eye in enumerate(eyes):
        mine = view == index
        xy[mine] = _project(eye, points[point[mine]])[0]
    return Tracks(point, view, np.nan_to_num(xy) + rng.normal(0, sigma_px, xy.shape))
