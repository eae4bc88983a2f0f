"""From posed photos on disk to a scene: what all capture formats that name photos have in common."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from learn2splat.cameras import Cameras
from learn2splat.data.base import BadSceneError, PointCloud, SceneData
from learn2splat.data.lens import Lens
from learn2splat.data.masks import LazyMasks, check_mask
from learn2splat.data.photos import LazyPhotos, PhotoFile, fit_photo, photo_size


@dataclass(frozen=True)
class PosedPhoto:
    """One photo of a capture.

    Args:
        name: path of the photo relative to the folder of photos.
        path: where it lies.
        camera: name of its camera, for messages.
        lens: calibration.
        cam_from_world: [4, 4] rigid transform.
        mask: picture as large as the photo, black where it is to be ignored.
    """

    name: str
    path: Path
    camera: str
    lens: Lens
    cam_from_world: NDArray[np.float64]
    mask: Path | None = None


def assemble(
    name: str,
    posed: Sequence[PosedPhoto],
    points: PointCloud | None,
    split: tuple[Sequence[int], Sequence[int]],
    max_size: int,
    warnings: Sequence[str],
) -> SceneData:
    """A scene of ``posed`` photos, looked at now and decoded and undistorted on first use. ``cameras`` are float32.

    Args:
        name: of the scene.
        posed: V photos.
        points: sparse points, or None.
        split: (train, test) view indices.
        max_size: bound of the long side of the photos in pixels.
        warnings: what the reader found suspicious; lenses that see too little are added.

    Raises:
        BadSceneError: photos cannot be decoded or are not those of their cameras; all that are bad are named.
    """
    files, intrinsics = _fit(posed, max_size)
    found = list(warnings)
    uncovered = sorted({photo.camera for photo in posed if not photo.lens.covers_view})
    if uncovered:
        found.append(
            f"the undistorted photos of camera {abbreviated(uncovered)} reach beyond them: borders are smeared"
        )
    cameras = Cameras(
        torch.from_numpy(np.stack(intrinsics)).float(),
        torch.from_numpy(np.stack([photo.cam_from_world for photo in posed])).float(),
        torch.tensor([file.width for file in files]),
        torch.tensor([file.height for file in files]),
    )
    train, test = split
    names = tuple(photo.name for photo in posed)
    photos = LazyPhotos(files)
    masks = LazyMasks(photos) if any(file.mask for file in files) else None
    return SceneData(name, cameras, photos, names, points, train, test, tuple(found), masks)


def check_name(where: str, name: str, remedy: str) -> None:
    """`BadSceneError` unless ``name`` is a path that stays inside the folder of photos."""
    path = PurePosixPath(name)
    try:
        writable = bool(name.encode()) and "\0" not in name
    except UnicodeEncodeError:
        writable = False
    if not writable or path.is_absolute() or ".." in path.parts:
        raise BadSceneError(f"{where}: {name!r} is not a path inside the folder of photos; {remedy}")


def abbreviated(names: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """The first few of ``names``, and how many there are beside."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def _fit(posed: Sequence[PosedPhoto], max_size: int) -> tuple[list[PhotoFile], list[NDArray[np.float64]]]:
    """Look at every photo; all that are bad are named in one error."""

    def attempt(photo: PosedPhoto) -> tuple[PhotoFile, NDArray[np.float64]] | str:
        try:
            file, K = fit_photo(photo.path, photo.lens, max_size)
            if photo.mask is not None:
                check_mask(photo.mask, photo_size(photo.path))
            return replace(file, mask=photo.mask), K
        except ValueError as error:
            return f"{photo.path} {error}"

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(attempt, posed))
    bad = [result for result in results if isinstance(result, str)]
    if bad:
        raise BadSceneError(
            f"{len(bad)} of {len(posed)} photos cannot be used; restore them, or remove them to go on without: "
            f"{abbreviated(bad, separator='; ')}"
        )
    fits = [result for result in results if not isinstance(result, str)]
    return [file for file, _ in fits], [K for _, K in fits]
