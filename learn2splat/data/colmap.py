"""Captures posed by COLMAP."""

from __future__ import annotations

import os
from pathlib import Path

from learn2splat.data.base import BadSceneError, PointCloud, SceneData
from learn2splat.data.colmap_model import read_model
from learn2splat.data.colmap_records import RegisteredImage, SparsePoints
from learn2splat.data.point_cloud import NO_POINTS, usable_points
from learn2splat.data.posed import PosedPhoto, abbreviated, assemble
from learn2splat.data.views import train_test_split

MODEL_FOLDERS = ("sparse/0", "sparse", ".")
PHOTO_FOLDERS = ("images", "images_2", "images_4", "images_8", ".")
MASKS, PHOTOS = "masks", "images"
STEMS = ("cameras", "images", "points3D")


class ColmapSource:
    """A COLMAP model with its photos. Implements `SceneSource`.

    The model is looked for in ``sparse/0``, ``sparse`` and the folder itself; photos in ``images`` (then
    ``images_2``, ``images_4``, ``images_8``) and the folder itself. Distorted photos are undistorted when they are
    decoded; photos that are a uniformly rescaled version of what the camera was calibrated on are accepted. Masks lie
    beside the photos, in ``masks`` for ``images`` and ``masks_2`` for ``images_2``: ``NAME.jpg.png`` as COLMAP writes
    it, or ``NAME.png`` as nerfstudio does.
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
        masks = _masks(photo_folder, [image.name for image in images], warnings)
        posed = [
            PosedPhoto(
                image.name,
                photo_folder / image.name,
                str(image.camera_id),
                model.lenses[image.camera_id],
                image.cam_from_world,
                masks.get(image.name),
            )
            for image in images
        ]
        points = _points(model.points, warnings)
        split = train_test_split(len(posed), test_every)
        return assemble(_scene_name(path), posed, points, split, max_size, warnings)


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
            f"none of the {len(images)} registered photos ({abbreviated([image.name for image in images])}) was "
            f"found; looked in {', '.join(str(folder) for folder in folders)}: put them into {path / 'images'}"
        )
    kept = {image.name for image in there}
    missing = [image.name for image in images if image.name not in kept]
    if missing:
        warnings.append(
            f"{len(missing)} of {len(images)} registered photos are missing in {folder} and were left out: "
            f"{abbreviated(missing)}"
        )
    return folder, there


def _masks(photo_folder: Path, names: list[str], warnings: list[str]) -> dict[str, Path]:
    """The masks that there are, by the names of their photos."""
    stem = photo_folder.name if photo_folder.name.startswith(PHOTOS) else PHOTOS
    parent = photo_folder.parent if photo_folder.name == stem else photo_folder
    folder = parent / stem.replace(PHOTOS, MASKS)
    if not os.path.isdir(folder):
        return {}
    found = {}
    for name in names:
        candidates = (folder / f"{name}.png", (folder / name).with_suffix(".png"))
        mask = next((file for file in candidates if os.path.isfile(file)), None)
        if mask is not None:
            found[name] = mask
    without = [name for name in names if name not in found]
    if without:
        warnings.append(f"{len(without)} of {len(names)} photos have no mask in {folder}: {abbreviated(without)}")
    return found


def _points(points: SparsePoints | None, warnings: list[str]) -> PointCloud | None:
    if points is None:
        warnings.append(f"the model has no points3D file: {NO_POINTS}")
        return None
    return usable_points(points.positions, points.colors, warnings)


def _scene_name(path: Path) -> str:
    path = path.resolve()
    while path.name in ("0", "sparse") and path.parent != path:
        path = path.parent
    return path.name
