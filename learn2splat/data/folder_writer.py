"""What all writers of scene folders share: a folder that is whole or absent, its photos, its cameras."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from learn2splat.data.base import SceneData
from learn2splat.data.photos import LazyPhotos, photo_size
from learn2splat.files import writing


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes ``folder`` when the block ends well and vanishes when it does not.

    Raises:
        FileExistsError: ``folder`` is a file or holds something.
        CannotWriteError: the disk is full or not writable.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: name a new one or remove it first")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as holder:
            partial = Path(holder) / "scene"
            partial.mkdir()
            yield partial
            if folder.is_dir():
                folder.rmdir()
            os.replace(partial, folder)


def file_names(scene: SceneData) -> list[str]:
    """Names of the photos as files: PNG when they have no suffix."""
    return [name if Path(name).suffix else f"{name}.png" for name in scene.image_names]


def write_photos(scene: SceneData, folder: Path) -> None:
    """Write ``images/NAME``, and the masks that there are as ``masks/NAME.png`` (black is ignored), into ``folder``.

    A photo that a view shows as it is, is copied, its transparency included.
    """
    for view, name in enumerate(file_names(scene)):
        if scene.masks is not None:
            mask = folder / "masks" / f"{name}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.masks[view].cpu().numpy().astype(np.uint8) * 255).save(mask)
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        original = _unchanged(scene, view)
        if original is not None:
            shutil.copyfile(original, path)
        else:
            Image.fromarray(scene.photos[view].cpu().numpy()).save(path, compress_level=3, quality=95)


def _unchanged(scene: SceneData, view: int) -> Path | None:
    """The file that is shown as it is, if there is one."""
    if not isinstance(scene.photos, LazyPhotos):
        return None
    file = scene.photos.files[view]
    scene.photos[view]  # a damaged one is not copied
    return file.path if file.lens is None and photo_size(file.path) == (file.width, file.height) else None


def distinct_cameras(scene: SceneData) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct cameras [C, 6] (width, height, fx, fy, cx, cy) and which of them [V] each view uses."""
    K = scene.cameras.K.cpu().double().numpy()
    sizes = np.stack([scene.cameras.widths.cpu().numpy(), scene.cameras.heights.cpu().numpy()], 1)
    rows = np.column_stack([sizes, K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]])
    distinct, which = np.unique(rows, axis=0, return_inverse=True)
    return distinct, which.ravel()
