"""``transforms.json`` as instant-ngp (Müller et al. 2022) and nerfstudio (Tancik et al. 2023) read it.

One JSON object: intrinsics, shared or per frame, and ``frames`` with a photo and a ``transform_matrix`` each, which is
world-from-camera in OpenGL's frame (+x right, +y up, +z backward). A frame may name a ``mask_path``, or
``dynamic_mask_NAME.png`` lies beside its photo. instant-ngp's ``sharpness`` of a frame is not used. No field for the
exposure of a photo is documented, and none is read. Blender-synthetic captures (Mildenhall et al. 2020)
are the same with nothing but ``camera_angle_x`` for intrinsics.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learn2splat.data.base import BadSceneError
from learn2splat.data.json_files import REMEDY, cam_from_opengl, is_usable, read_object, shown, to_float
from learn2splat.data.lens import Lens
from learn2splat.data.masks import DYNAMIC
from learn2splat.data.photos import photo_size
from learn2splat.data.posed import PosedPhoto, check_name

SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
"""What is tried after a ``file_path``; Blender captures name photos without their suffix."""

PERSPECTIVE = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
FISHEYE = "OPENCV_FISHEYE"


@dataclass(frozen=True)
class Transforms:
    """One file.

    Args:
        photos: those that are there, in order of names.
        missing: names of those that are not.
        held_out: names that the file lists as test (else validation) photos; None when it lists none.
        points: PLY of sparse points in the same world, or None.
    """

    photos: list[PosedPhoto]
    missing: list[str]
    held_out: frozenset[str] | None
    points: Path | None


@dataclass(frozen=True)
class _Frame:
    """A frame with what the file says of all: numbers are looked up in the frame first."""

    where: str
    own: Mapping[str, Any]
    shared: Mapping[str, Any]

    def get(self, key: str) -> Any:
        return self.own.get(key, self.shared.get(key))

    def number(self, key: str) -> float | None:
        """A finite number, or None when there is none."""
        value = self.get(key)
        if value is None:
            return None
        number = to_float(value)
        if not math.isfinite(number):
            raise BadSceneError(f"{self.where}: {key} is {shown(value)}, not a finite number; {REMEDY}")
        return number

    def number_or(self, key: str, default: float) -> float:
        """A finite number, or ``default`` when there is none."""
        number = self.number(key)
        return default if number is None else number


def read_transforms(path: Path) -> Transforms:
    """Read a file; photos are relative to its folder.

    Raises:
        BadSceneError: the file is damaged, contradicts itself or speaks of a lens that is not supported.
    """
    content = read_object(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise BadSceneError(f"{path} holds no list 'frames' of photos and poses: it is no capture, or {REMEDY}")
    photos, missing, names = [], [], set()
    lenses: dict[Lens, Lens] = {}  # equal ones are one, which then works out its undistorted view once
    for index, own in enumerate(frames):
        where = f"{path}, frame {index}"
        if not isinstance(own, dict):
            raise BadSceneError(f"{where}: expected an object, found {shown(own)}; {REMEDY}")
        name, photo = _photo(f"{where}: file_path", path.parent, own.get("file_path"))
        if name in names:
            raise BadSceneError(f"{where}: the photo {name!r} is there twice; {REMEDY}")
        names.add(name)
        if photo is None:
            missing.append(name)
            continue
        frame = _Frame(f"{where} ({name})", own, content)
        pose = _cam_from_world(frame.where, own.get("transform_matrix"))
        lens = _lens(frame, photo)
        mask = _inside(f"{where}: mask_path", path.parent, own.get("mask_path")) or _dynamic_mask(photo)
        photos.append(PosedPhoto(name, photo, name, lenses.setdefault(lens, lens), pose, mask))
    points = _inside(f"{path}: ply_file_path", path.parent, content.get("ply_file_path"))
    return Transforms(sorted(photos, key=lambda photo: photo.name), missing, _held_out(path, content), points)


def _photo(where: str, folder: Path, value: Any) -> tuple[str, Path | None]:
    """Name of a photo, with its suffix, and its file when that is there."""
    if not isinstance(value, str):
        raise BadSceneError(f"{where} is {shown(value)}, not the path of a photo; {REMEDY}")
    check_name(where, value, f"move the photos into {folder}, or {REMEDY}")
    name = str(PurePosixPath(value))
    for suffix in SUFFIXES:
        if os.path.isfile(folder / f"{name}{suffix}"):
            return f"{name}{suffix}", folder / f"{name}{suffix}"
    return name, None


def _inside(where: str, folder: Path, value: Any) -> Path | None:
    """A file inside ``folder`` that is named beside the photos, if one is."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadSceneError(f"{where} is {shown(value)}, not a path; {REMEDY}")
    check_name(where, value, f"move it into {folder}, or {REMEDY}")
    return folder / value


def _dynamic_mask(photo: Path) -> Path | None:
    """instant-ngp's mask beside a photo, if there is one."""
    mask = photo.with_name(f"{DYNAMIC}{photo.stem}.png")
    return mask if mask.is_file() else None


def _held_out(path: Path, content: Mapping[str, Any]) -> frozenset[str] | None:
    """nerfstudio's explicit split."""
    for key in ("test_filenames", "val_filenames"):
        listed = content.get(key)
        if listed is None:
            continue
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise BadSceneError(f"{path}: {key} is {shown(listed)}, not a list of paths; {REMEDY}")
        return frozenset(_photo(f"{path}: {key}", path.parent, name)[0] for name in listed)
    return None


def _cam_from_world(where: str, value: Any) -> NDArray[np.float64]:
    """[4, 4] OpenCV camera from world, out of OpenGL world-from-camera."""
    matrix = np.full((4, 4), np.nan)
    rows = value if isinstance(value, list) else []
    if len(rows) in (3, 4) and all(isinstance(row, list) and len(row) == 4 for row in rows):
        matrix[3] = 0.0, 0.0, 0.0, 1.0
        matrix[: len(rows)] = [[to_float(number) for number in row] for row in rows]
    if not is_usable(matrix) or (matrix[3] != (0.0, 0.0, 0.0, 1.0)).any():
        raise BadSceneError(f"{where}: transform_matrix is {shown(value)}, not 4x4 finite numbers; {REMEDY}")
    return cam_from_opengl(f"{where}: the axes of transform_matrix", matrix[:3])


def _lens(frame: _Frame, photo: Path) -> Lens:
    model = _model(frame)
    width, height = _size(frame, photo)
    focal_x = frame.number("fl_x") or _focal(frame, "camera_angle_x", width)
    focal_y = frame.number("fl_y") or _focal(frame, "camera_angle_y", height) or focal_x
    focal_x = focal_x or focal_y
    if focal_x is None or focal_y is None:
        raise BadSceneError(f"{frame.where}: neither fl_x nor camera_angle_x gives a focal length; {REMEDY}")
    center = frame.number_or("cx", width / 2), frame.number_or("cy", height / 2)
    k1, k2, k3, k4, p1, p2 = (frame.number_or(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    distortion: tuple[float, ...]
    if model == FISHEYE:
        name, distortion = FISHEYE, (k1, k2, k3, k4)
    elif k4:
        raise BadSceneError(f"{frame.where}: k4 has no agreed meaning in a perspective lens; calibrate without it")
    elif k3:
        name, distortion = "FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    else:
        name, distortion = "OPENCV", (k1, k2, p1, p2)
    try:
        return Lens(name, width, height, (focal_x, focal_y, *center, *distortion))
    except ValueError as error:
        raise BadSceneError(f"{frame.where}: {error}; calibrate the camera again or {REMEDY}") from None


def _model(frame: _Frame) -> str:
    """OPENCV or OPENCV_FISHEYE: which formula the coefficients belong to."""
    if frame.get("ftheta_p0") is not None or frame.get("latlong"):
        raise BadSceneError(f"{frame.where}: f-theta and panorama lenses are not supported; convert to OPENCV_FISHEYE")
    model = frame.get("camera_model") or (FISHEYE if frame.get("is_fisheye") else "OPENCV")
    if model not in (*PERSPECTIVE, FISHEYE):
        known = ", ".join((*PERSPECTIVE, FISHEYE))
        raise BadSceneError(f"{frame.where}: camera_model {shown(model)} is not supported; convert to one of {known}")
    return FISHEYE if model == FISHEYE else "OPENCV"


def _size(frame: _Frame, photo: Path) -> tuple[int, int]:
    width, height = frame.number("w"), frame.number("h")
    if width is not None and height is not None:
        return round(width), round(height)
    try:
        return photo_size(photo)
    except ValueError as error:
        raise BadSceneError(f"photo {photo} {error}; restore it, or remove its frame") from error


def _focal(frame: _Frame, key: str, side: int) -> float | None:
    angle = frame.number(key)
    if angle is None:
        return None
    if not 0.0 < angle < math.pi:
        raise BadSceneError(f"{frame.where}: {key} is {angle}, not an angle between 0 and pi; {REMEDY}")
    return 0.5 * side / math.tan(0.5 * angle)
