"""Record3D's export: photos, and one file with the camera and all poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.json_files import REMEDY, cam_from_opengl, finite, is_usable, read_object, shown, to_float
from learn2splat.data.lens import Lens
from learn2splat.data.point_cloud import NO_POINTS
from learn2splat.data.posed import PosedPhoto, assemble
from learn2splat.data.views import train_test_split

METADATA = ("metadata.json", "metadata")
SUFFIXES = {".jpg", ".jpeg", ".png"}


class Record3DSource:
    """``metadata`` and ``rgb/NUMBER.jpg`` of Record3D's export with single frames. Implements `SceneSource`.

    The file holds ``w`` and ``h`` in pixels, ``K`` (9 numbers, column after column) and ``poses``, one ``[qx, qy, qz,
    qw, tx, ty, tz]`` for each photo in the order of their numbers: world-from-camera, with a camera as OpenGL's (+x
    right, +y up, +z backward) and y up in the world. The depth is not used.

    This follows the layout as Record3D and nerfstudio document it; it has met no real export yet.
    """

    name = "Record3D"
    looks_for = "an export with single frames: a folder with metadata.json and rgb"

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` holds ``rgb`` and a file of metadata."""
        return _metadata(path) is not None

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the scene; see `SceneSource.load`. Views are in the order of the numbers of the photos."""
        file = _metadata(path)
        if file is None:
            raise BadSceneError(f"{path} is no export of Record3D: looked for {self.looks_for}")
        content = read_object(file)
        lens, poses = _lens(file, content), _poses(file, content.get("poses"))
        photos = _numbered(path / "rgb")
        if not photos or len(photos) != len(poses):
            raise BadSceneError(f"{file} has {len(poses)} poses for {len(photos)} photos in {path / 'rgb'}; {REMEDY}")
        posed = [
            PosedPhoto(photo.name, photo, "the camera", lens, pose) for photo, pose in zip(photos, poses, strict=True)
        ]
        warnings = [f"the capture has no points: {NO_POINTS}"]
        split = train_test_split(len(posed), test_every)
        return assemble(path.resolve().name, posed, None, split, max_size, warnings)


def _metadata(path: Path) -> Path | None:
    try:
        found = [path / name for name in METADATA if (path / name).is_file() and (path / "rgb").is_dir()]
    except (OSError, ValueError):
        return None
    return found[0] if found else None


def _numbered(folder: Path) -> list[Path]:
    """Photos whose names are numbers, in their order."""
    photos = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.stem.isdecimal()]
    return sorted(photos, key=lambda path: (int(path.stem), path.name))


def _lens(file: Path, content: dict[str, Any]) -> Lens:
    K = _numbers(content.get("K"), 9)
    if K is None:
        raise BadSceneError(f"{file}: K is {shown(content.get('K'))}, not 9 finite numbers; {REMEDY}")
    width, height = (round(finite(str(file), content, key)) for key in ("w", "h"))
    try:
        return Lens("PINHOLE", width, height, (K[0], K[4], K[6], K[7]))
    except ValueError as error:
        raise BadSceneError(f"{file}: {error}; {REMEDY}") from None


def _poses(file: Path, rows: Any) -> list[NDArray[np.float64]]:
    if not isinstance(rows, list):
        raise BadSceneError(f"{file}: poses is {shown(rows)}, not a list; {REMEDY}")
    poses = []
    for index, row in enumerate(rows):
        numbers = _numbers(row, 7)
        if numbers is None or not np.linalg.norm(numbers[:4]) > 1e-12:
            raise BadSceneError(f"{file}: pose {index} is {shown(row)}, not a rotation and a place; {REMEDY}")
        rotation = Rotation.from_quat(numbers[:4]).as_matrix()
        world_from_cam = np.concatenate([rotation, np.array(numbers[4:])[:, None]], axis=1)
        poses.append(cam_from_opengl(f"{file}: the axes of pose {index}", world_from_cam))
    return poses


def _numbers(value: Any, count: int) -> list[float] | None:
    """``count`` numbers that are finite, or None."""
    numbers = [to_float(number) for number in value] if isinstance(value, list) else []
    return numbers if len(numbers) == count and is_usable(np.array(numbers)) else None
