"""Writes a scene as a standard COLMAP folder, whole or not at all."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.folder_writer import distinct_cameras, file_names, whole_folder, write_photos

_PINHOLE = 1
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


@dataclass(frozen=True)
class Tracks:
    """Which views see which sparse point, as T observations.

    Args:
        point: [T] int64 index into the sparse points.
        view: [T] int64 view index.
        xy: [T, 2] float64 position in pixels.
    """

    point: NDArray[np.int64]
    view: NDArray[np.int64]
    xy: NDArray[np.float64]


def no_tracks() -> Tracks:
    """No observations at all."""
    return Tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))


def write_colmap(
    scene: SceneData,
    folder: Path | str,
    *,
    depth: Tensor | None = None,
    alpha: Tensor | None = None,
    tracks: Tracks | None = None,
) -> Path:
    """Write ``images/`` and ``sparse/0/{cameras,images,points3D}.bin`` (PINHOLE), and what else is given.

    Args:
        scene: what to write; image names without a suffix become PNG files.
        folder: must not exist, or be empty; appears only when everything is written.
        depth: [V, H, W] world units -> ``depth/NAME.npy`` float32.
        alpha: [V, H, W] in 0..1 -> ``alpha/NAME.png``, 8 bits.
        tracks: observations of the sparse points; without them tracks are empty.

    Returns:
        The folder.

    Raises:
        FileExistsError: ``folder`` is a file or holds something.
        ValueError: depth, alpha or tracks do not fit the scene.
    """
    folder = Path(folder)
    tracks = tracks or no_tracks()
    _check(scene, depth, alpha, tracks)
    with whole_folder(folder) as partial:
        write_photos(scene, partial)
        _write_sparse(scene, tracks, partial / "sparse" / "0")
        _write_maps(scene, depth, alpha, partial)
    return folder


def _check(scene: SceneData, depth: Tensor | None, alpha: Tensor | None, tracks: Tracks) -> None:
    views, points = len(scene.cameras), len(scene.points) if scene.points is not None else 0
    for name, stack in (("depth", depth), ("alpha", alpha)):
        if stack is not None and (stack.ndim != 3 or stack.shape[0] != views):
            raise ValueError(f"{name} has shape {tuple(stack.shape)}, expected [{views}, H, W]")
    if len(tracks.point) and (tracks.point.max() >= points or tracks.view.max() >= views):
        raise ValueError(f"tracks name a point or view beyond the scene's {points} points and {views} views")


def _write_maps(scene: SceneData, depth: Tensor | None, alpha: Tensor | None, folder: Path) -> None:
    for kind, stack, suffix in (("depth", depth, ".npy"), ("alpha", alpha, ".png")):
        if stack is None:
            continue
        for view, name in enumerate(file_names(scene)):
            path = (folder / kind / name).with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            values = stack[view].cpu().numpy()
            if kind == "depth":
                np.save(path, values.astype(np.float32))
            else:
                Image.fromarray((values * 255 + 0.5).clip(0, 255).astype(np.uint8)).save(path)


def _write_sparse(scene: SceneData, tracks: Tracks, folder: Path) -> None:
    folder.mkdir(parents=True)
    distinct, which = distinct_cameras(scene)
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", len(distinct)))
        for index, (width, height, *params) in enumerate(distinct):
            file.write(struct.pack("<iiQQ4d", index + 1, _PINHOLE, int(width), int(height), *params))
    order = np.lexsort((tracks.point, tracks.view))
    slots = _write_views(scene, tracks, order, which, folder / "images.bin")
    _write_points(scene, tracks, slots, folder / "points3D.bin")


def _write_views(
    scene: SceneData, tracks: Tracks, order: NDArray[np.int64], which: NDArray[np.int64], path: Path
) -> NDArray[np.int64]:
    """Write images.bin; returns the index [T] of every observation within its image."""
    poses = scene.cameras.cam_from_world.cpu().double().numpy()
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]
    slots = np.zeros(len(order), np.int64)
    bounds = np.searchsorted(tracks.view[order], np.arange(len(poses) + 1))
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(poses)))
        for view, name in enumerate(file_names(scene)):
            mine = order[bounds[view] : bounds[view + 1]]
            slots[mine] = np.arange(len(mine))
            file.write(struct.pack("<i7di", view + 1, *quaternions[view], *poses[view, :3, 3], int(which[view]) + 1))
            file.write(name.encode() + b"\0" + struct.pack("<Q", len(mine)))
            seen = np.zeros(len(mine), _OBSERVATION)
            seen["xy"], seen["point"] = tracks.xy[mine], tracks.point[mine] + 1
            file.write(seen.tobytes())
    return slots


def _errors(scene: SceneData, tracks: Tracks) -> NDArray[np.float64]:
    """Mean reprojection error [P] in pixels, 0 without observations."""
    if scene.points is None:
        return np.zeros(0)
    positions = scene.points.positions_world.cpu().double().numpy()
    pose = scene.cameras.cam_from_world.cpu().double().numpy()[tracks.view]
    K = scene.cameras.K.cpu().double().numpy()[tracks.view]
    local = (pose[:, :3, :3] @ positions[tracks.point][..., None])[..., 0] + pose[:, :3, 3]
    pixel = (K @ local[..., None])[..., 0]
    error = np.linalg.norm(pixel[:, :2] / pixel[:, 2:] - tracks.xy, axis=1)
    count = np.bincount(tracks.point, minlength=len(positions))
    return np.bincount(tracks.point, error, minlength=len(positions)) / np.maximum(count, 1)


def _write_points(scene: SceneData, tracks: Tracks, slots: NDArray[np.int64], path: Path) -> None:
    points = scene.points
    count = 0 if points is None else len(points)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", count))
        if points is None:
            return
        positions = points.positions_world.cpu().double().numpy()
        colors = (points.colors.cpu().numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8)
        errors = _errors(scene, tracks)
        order = np.argsort(tracks.point, kind="stable")
        bounds = np.searchsorted(tracks.point[order], np.arange(count + 1))
        elements = np.column_stack([tracks.view + 1, slots])[order].astype("<i4")
        for index in range(count):
            track = elements[bounds[index] : bounds[index + 1]]
            file.write(struct.pack("<Q3d3Bd", index + 1, *positions[index], *colors[index].tolist(), errors[index]))
            file.write(struct.pack("<Q", len(track)) + track.tobytes())
