"""Polycam's raw export: photos and one JSON file for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.json_files import REMEDY, cam_from_opengl, finite, is_usable, read_object
from learn2splat.data.lens import Lens
from learn2splat.data.point_cloud import NO_POINTS
from learn2splat.data.posed import PosedPhoto, abbreviated, assemble
from learn2splat.data.views import train_test_split

KINDS = (("corrected_images", "corrected_cameras"), ("images", "cameras"))
"""Folders of photos and cameras below ``keyframes``; the corrected ones have poses with closed loops."""
SUFFIXES = (".jpg", ".jpeg", ".png")


class PolycamSource:
    """``keyframes`` of Polycam's raw export. Implements `SceneSource`.

    The JSON file of a photo holds ``fx, fy, cx, cy, width, height`` in pixels and the rows ``t_00 ... t_23`` of
    world-from-camera, with a camera as OpenGL's (+x right, +y up, +z backward) and y up in the world. Its
    ``blur_score`` is not used: ``l2s scene info`` looks at the photos. Nor is the depth.

    This follows the layout as Polycam (polyform) and nerfstudio document it; it has met no real export yet.
    """

    name = "Polycam"
    looks_for = "a raw export: a folder with keyframes/images and keyframes/cameras"

    def recognises(self, path: Path) -> bool:
        """Whether ``path``, or ``keyframes`` in it, holds folders of photos and of their cameras."""
        return _folders(path) is not None

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the scene; see `SceneSource.load`."""
        folders = _folders(path)
        if folders is None:
            raise BadSceneError(f"{path} is no raw export of Polycam: looked for {self.looks_for}")
        images, cameras = folders
        photos, missing = [], []
        for file in sorted(cameras.glob("*.json")):
            found = [photo for suffix in SUFFIXES if (photo := images / f"{file.stem}{suffix}").is_file()]
            if found:
                photos.append(_posed(found[0], file))
            else:
                missing.append(file.stem)
        if not photos:
            raise BadSceneError(f"none of the photos ({abbreviated(missing) or 'no camera'}) was found in {images}")
        warnings = [f"the capture has no points: {NO_POINTS}"]
        if missing:
            warnings.append(f"{len(missing)} photos are missing in {images} and were left out: {abbreviated(missing)}")
        root = path.resolve()
        name = root.parent.name if root.name == "keyframes" else root.name
        return assemble(name, photos, None, train_test_split(len(photos), test_every), max_size, warnings)


def _folders(path: Path) -> tuple[Path, Path] | None:
    """Folders of photos and cameras."""
    try:
        for base in (path / "keyframes", path):
            for images, cameras in KINDS:
                if (base / images).is_dir() and any((base / cameras).glob("*.json")):
                    return base / images, base / cameras
    except (OSError, ValueError):
        pass
    return None


def _posed(photo: Path, file: Path) -> PosedPhoto:
    content = read_object(file)
    rows = [[finite(str(file), content, f"t_{row}{column}") for column in range(4)] for row in range(3)]
    world_from_cam = np.array(rows)
    if not is_usable(world_from_cam):
        raise BadSceneError(f"{file}: its pose is too far away; {REMEDY}")
    pose = cam_from_opengl(f"{file}: the axes of its pose", world_from_cam)
    return PosedPhoto(photo.name, photo, photo.name, _lens(file, content), pose)


def _lens(file: Path, content: dict[str, Any]) -> Lens:
    width, height, *params = (finite(str(file), content, key) for key in ("width", "height", "fx", "fy", "cx", "cy"))
    try:
        return Lens("PINHOLE", round(width), round(height), tuple(params))
    except ValueError as error:
        raise BadSceneError(f"{file}: {error}; {REMEDY}") from None
