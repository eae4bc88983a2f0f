"""Captures posed by COLMAP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from learn2splat.cameras import Cameras
from learn2splat.data.base import BadSceneError, PointCloud, SceneData
from learn2splat.data.colmap_model import read_model
from learn2splat.data.colmap_records import RegisteredImage, SparsePoints
from learn2splat.data.lens import Lens
from learn2splat.data.photos import LazyPhotos, PhotoFile, fit_photo
from learn2splat.data.views import train_test_split

MODEL_FOLDERS = ("sparse/0", "sparse", ".")
PHOTO_FOLDERS = ("images", "images_2", "images_4", "images_8", ".")
STEMS = ("cameras", "images", "points3D")


class ColmapSource:
    """A COLMAP model with its photos. Implements `SceneSource`.

    The model is looked for in ``sparse/0``, ``sparse`` and the folder itself; photos in ``images`` (then
    ``images_2``, ``images_4``, ``images_8``) and the folder itself. Distorted photos are undistorted when they are
    decoded; photos that are a uniformly rescaled version of what the camera was calibrated on are accepted.
    """

    name = "COLMAP"
    looks_for = "a folder with cameras and images as .bin or .txt in sparse/0, sparse or itself, and photos in images"

    def recognises(self, path: Path) -> bool:
        """Whether one of the model folders holds a model, or a ``sparse`` folder holds part of one."""
        return _model_folder(path) is not None

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the scene; see `SceneSource.load`. ``cameras`` are float32."""
        folder = _model_folder(path)
        if folder is None:
            raise BadSceneError(f"{path} is no COLMAP capture: looked for {self.looks_for}")
        model = read_model(folder)
        warnings = _other_models(folder)
        photo_folder, images = _present(path, model.images, warnings)
        files, intrinsics = _fit(
            [(photo_folder / image.name, model.lenses[image.camera_id]) for image in images], max_size
        )
        uncovered = sorted({str(image.camera_id) for image in images if not model.lenses[image.camera_id].covers_view})
        if uncovered:
            warnings.append(
                f"the undistorted photos of camera {_abbreviated(uncovered)} reach beyond them: borders are smeared"
            )
        train, test = train_test_split(len(images), test_every)
        return SceneData(
            name=_scene_name(path),
            cameras=_cameras(images, files, intrinsics),
            photos=LazyPhotos(files),
            image_names=tuple(image.name for image in images),
            points=_points(model.points, warnings),
            train=train,
            test=test,
            warnings=tuple(warnings),
        )


def _model_folder(path: Path) -> Path | None:
    for relative in MODEL_FOLDERS:
        folder = path / relative
        found = [any(os.path.isfile(folder / f"{stem}{suffix}") for suffix in (".bin", ".txt")) for stem in STEMS]
        # a folder that is called sparse and holds one of the files is a broken model rather than something else
        if all(found[:2]) or (any(found) and folder != path):
            return folder
    return None


def _other_models(folder: Path) -> list[str]:
    """COLMAP writes one folder per connected part; a user should know that there are more."""
    if not (folder.name == "0" and os.path.isdir(folder.parent / "1")):
        return []
    return [f"the reconstruction fell into several parts; only {folder} is used, {folder.parent / '1'} is not"]


def _present(path: Path, images: list[RegisteredImage], warnings: list[str]) -> tuple[Path, list[RegisteredImage]]:
    """The first folder that holds photos of the model, and the images whose photos it holds."""
    folders = [path / relative for relative in PHOTO_FOLDERS]
    if path.resolve().name in ("0", "sparse"):
        folders += [path.resolve().parent / "images", path.resolve().parent.parent / "images"]
    for folder in folders:
        there = [image for image in images if os.path.isfile(folder / image.name)]
        if there:
            break
    else:
        raise BadSceneError(
            f"none of the {len(images)} registered photos ({_abbreviated([image.name for image in images])}) was "
            f"found; looked in {', '.join(str(folder) for folder in folders)}: put them into {path / 'images'}"
        )
    kept = {image.name for image in there}
    missing = [image.name for image in images if image.name not in kept]
    if missing:
        warnings.append(
            f"{len(missing)} of {len(images)} registered photos are missing in {folder} and were left out: "
            f"{_abbreviated(missing)}"
        )
    return folder, there


def _fit(photos: Sequence[tuple[Path, Lens]], max_size: int) -> tuple[list[PhotoFile], list[NDArray[np.float64]]]:
    """Look at every photo; all that are bad are named in one error."""

    def attempt(photo: tuple[Path, Lens]) -> tuple[PhotoFile, NDArray[np.float64]] | str:
        path, lens = photo
        try:
            return fit_photo(path, lens, max_size)
        except ValueError as error:
            return f"{path} {error}"

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(attempt, photos))
    bad = [result for result in results if isinstance(result, str)]
    if bad:
        raise BadSceneError(
            f"{len(bad)} of {len(photos)} photos cannot be used; restore them, or remove them to go on without: "
            f"{_abbreviated(bad, separator='; ')}"
        )
    fits = [result for result in results if not isinstance(result, str)]
    return [file for file, _ in fits], [K for _, K in fits]


def _cameras(
    images: Sequence[RegisteredImage], files: Sequence[PhotoFile], intrinsics: Sequence[NDArray[np.float64]]
) -> Cameras:
    poses = np.stack([image.cam_from_world for image in images])
    return Cameras(
        torch.from_numpy(np.stack(intrinsics)).float(),
        torch.from_numpy(poses).float(),
        torch.tensor([file.width for file in files]),
        torch.tensor([file.height for file in files]),
    )


SUSPICIOUS_DUPLICATES = 0.1
"""Share of repeated points above which a person is told; real reconstructions repeat up to 5 %."""


def _points(points: SparsePoints | None, warnings: list[str]) -> PointCloud | None:
    """Points that can be used; what was dropped, or that there are none, goes into ``warnings``."""
    if points is None:
        warnings.append("the model has no points3D file: there is no point cloud to start from")
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        positions = points.positions.astype(np.float32) + np.float32(0.0)  # -0 and 0 are one place
    finite = np.isfinite(positions).all(axis=1).nonzero()[0]
    _, first = np.unique(positions[finite], axis=0, return_index=True)
    kept = finite[np.sort(first)]
    if len(finite) < len(positions):
        warnings.append(f"{len(positions) - len(finite)} of {len(positions)} points are not finite and were left out")
    if len(finite) - len(kept) > SUSPICIOUS_DUPLICATES * len(finite):
        warnings.append(f"{len(finite) - len(kept)} of {len(positions)} points are duplicates and were left out")
    if not len(kept):
        warnings.append("the model has no points: there is no point cloud to start from")
        return None
    return PointCloud(torch.from_numpy(positions[kept]), torch.from_numpy(points.colors[kept]).float() / 255.0)


def _scene_name(path: Path) -> str:
    path = path.resolve()
    while path.name in ("0", "sparse") and path.parent != path:
        path = path.parent
    return path.name


def _abbreviated(names: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more
