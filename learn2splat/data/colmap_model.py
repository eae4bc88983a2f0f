"""A whole COLMAP model from its three files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learn2splat.data import colmap_binary, colmap_text
from learn2splat.data.base import BadSceneError
from learn2splat.data.colmap_records import REMEDY, RegisteredImage, SparsePoints
from learn2splat.data.lens import Lens


@dataclass(frozen=True)
class ColmapModel:
    """A reconstruction: lenses by camera id, images in order of names, points (None without a file)."""

    lenses: dict[int, Lens]
    images: list[RegisteredImage]
    points: SparsePoints | None


def read_model(folder: Path) -> ColmapModel:
    """Read cameras, images and points3D of ``folder``, each from .bin when it is there, else from .txt.

    Raises:
        BadSceneError: a file is missing, damaged or contradicts another one.
    """

    def choose(stem: str) -> tuple[Path, bool]:
        binary = folder / f"{stem}.bin"
        return (binary, True) if binary.is_file() else (folder / f"{stem}.txt", False)

    path, is_binary = choose("cameras")
    lenses = (colmap_binary if is_binary else colmap_text).read_cameras(path)
    if not lenses:
        raise BadSceneError(f"{path} holds no camera: {REMEDY}")
    path, is_binary = choose("images")
    images = (colmap_binary if is_binary else colmap_text).read_images(path)
    _check_images(images, lenses, path)
    path, is_binary = choose("points3D")
    points = None
    if path.is_file():
        points = (colmap_binary if is_binary else colmap_text).read_points(path)
    return ColmapModel(lenses, sorted(images, key=lambda image: image.name), points)


def _check_images(images: list[RegisteredImage], lenses: dict[int, Lens], path: Path) -> None:
    if not images:
        raise BadSceneError(f"{path} holds no registered image: the reconstruction failed, or {REMEDY}")
    seen: set[str] = set()
    for image in images:
        if image.name in seen:
            raise BadSceneError(f"{path}: two images are called {image.name!r}; {REMEDY}")
        if image.camera_id not in lenses:
            raise BadSceneError(
                f"{path}: image {image.name!r} was taken by camera {image.camera_id}, which the cameras file lacks; "
                f"{REMEDY}"
            )
        seen.add(image.name)
