"""The records of a COLMAP model: what both of its file formats hold, and whether it can be true.

COLMAP's own reader is not used: given damaged files it takes truncated ones for whole, allocates gigabytes or does
not return. The readers in `colmap_binary` and `colmap_text` check bounds before they believe a count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learn2splat.data.base import BadSceneError
from learn2splat.data.lens import Lens
from learn2splat.data.posed import check_name

REMEDY = "copy the file again or export the model anew"


@dataclass(frozen=True)
class RegisteredImage:
    """One posed photo.

    Args:
        name: path of the photo relative to the folder of photos.
        camera_id: key into `ColmapModel.lenses`.
        cam_from_world: [4, 4] rigid transform.
    """

    name: str
    camera_id: int
    cam_from_world: NDArray[np.float64]


@dataclass(frozen=True)
class SparsePoints:
    """Points as stored: ``positions`` [P, 3] in world units, ``colors`` [P, 3] uint8 RGB."""

    positions: NDArray[np.float64]
    colors: NDArray[np.uint8]


def read_file(path: Path) -> bytes:
    """The bytes of a file of the model; `BadSceneError` when it is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        both = f"{path.stem}.bin nor {path.stem}.txt"
        raise BadSceneError(f"{path.parent} holds neither {both}: export the whole model from COLMAP") from None
    except OSError as error:
        raise BadSceneError(
            f"{path} cannot be read ({error.strerror or error}): it has to be a file that may be read"
        ) from error


def make_lens(where: str, model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
    """A `Lens`; what is wrong with it becomes a `BadSceneError` that begins with ``where``."""
    try:
        return Lens(model, width, height, params)
    except ValueError as error:
        raise BadSceneError(f"{where}: {error}; calibrate the camera again or {REMEDY}") from None


def make_image(
    where: str, name: str, camera_id: int, quat: tuple[float, ...], translation: tuple[float, ...]
) -> RegisteredImage:
    """A posed image from a quaternion (wxyz, any norm) and a translation, both cam-from-world.

    Raises:
        BadSceneError: the pose is not a finite rigid transform or the name does not stay inside the photo folder.
    """
    check_name(where, name, REMEDY)
    largest = max(abs(value) for value in quat)
    # a float32 pose must stay finite
    if not all(math.isfinite(value) and abs(value) < 1e30 for value in (*quat, *translation)) or largest < 1e-30:
        raise BadSceneError(
            f"{where} ({name}): the pose (quaternion {quat}, translation {translation}) is no rigid "
            f"transform; register the image again or {REMEDY}"
        )
    q = np.array(quat) / largest
    w, x, y, z = q / np.linalg.norm(q)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation
    return RegisteredImage(name, camera_id, pose)
