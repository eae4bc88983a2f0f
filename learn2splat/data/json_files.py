"""What all captures that are described in JSON have in common: files, numbers and poses that are checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learn2splat.data.base import BadSceneError

REMEDY = "export the file anew"
SHEAR = 1e-2
"""Largest difference of the lengths of the axes of a pose, relative: exporters print few digits."""

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BadSceneError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadSceneError(f"{path} does not exist: check the spelling") from None
    except OSError as error:
        raise BadSceneError(
            f"{path} cannot be read ({error.strerror or error}): it has to be a file that may be read"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadSceneError(f"{path} is not JSON ({error}); {REMEDY}") from None
    if not isinstance(content, dict):
        raise BadSceneError(f"{path} holds no JSON object; {REMEDY}")
    return content


def finite(where: str, content: Mapping[str, Any], key: str) -> float:
    """A number of ``content``; `BadSceneError` when there is none, or it is not finite."""
    number = to_float(content.get(key))
    if not math.isfinite(number):
        raise BadSceneError(f"{where}: {key} is {shown(content.get(key))}, not a finite number; {REMEDY}")
    return number


def is_usable(matrix: NDArray[np.float64]) -> bool:
    """Whether all numbers are finite, in float32 too."""
    return bool((np.abs(matrix) < 1e30).all())


def cam_from_opengl(axes: str, world_from_cam: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rigid [4, 4] of an OpenCV camera from the world.

    Args:
        axes: what is wrong when they are, for the message.
        world_from_cam: [3, 4] in OpenGL's frame (+x right, +y up, +z backward), finite; may hold a scale.

    Raises:
        BadSceneError: the axes are mirrored, or not at right angles.
    """
    left, lengths, right = np.linalg.svd(world_from_cam[:, :3])
    rotation = left @ right
    if not lengths[2] > max((1.0 - SHEAR) * lengths[0], 1e-12) or np.linalg.det(rotation) < 0:
        raise BadSceneError(f"{axes} are mirrored or not at right angles; {REMEDY}")
    result = np.eye(4)
    result[:3, :3] = rotation.T
    result[:3, 3] = -rotation.T @ world_from_cam[:, 3]
    return np.asarray(OPENCV_FROM_OPENGL @ result)


def to_float(value: Any) -> float:
    """A JSON number; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value) if not isinstance(value, Sequence | Mapping) or isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."
