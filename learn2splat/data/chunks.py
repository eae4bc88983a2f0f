"""RE10K and DL3DV chunks: the ``.torch`` files that pixelSplat (Charatan et al. 2024) and its successors train on."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.photos import area_filter, decode_photo
from learn2splat.data.point_cloud import NO_POINTS
from learn2splat.data.posed import abbreviated
from learn2splat.data.views import train_test_split

REMEDY = "download the chunk again"
SHEAR = 1e-2


class ChunkSource:
    """One clip of a chunk: ``CHUNK.torch``, or ``CHUNK.torch/KEY`` when it holds several. Implements `SceneSource`.

    A chunk is a list of clips with a ``key``, ``cameras`` [V, 18] (focal lengths and principal point in units of the
    picture's width and height, two zeros, cam-from-world [3, 4] in OpenCV's frame) and ``images``, encoded. Nothing is
    unpickled but tensors and plain containers.
    """

    name = "RE10K / DL3DV chunk"
    looks_for = "a .torch file, or CHUNK.torch/KEY for one of its clips"

    def recognises(self, path: Path) -> bool:
        """Whether ``path``, or what stands before its last part, is a file that is called ``.torch``."""
        return _chunk(path) is not None

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the clip; see `SceneSource.load`. Its photos are decoded now."""
        chunk = _chunk(path)
        if chunk is None:
            raise BadSceneError(f"{path} is no chunk: looked for {self.looks_for}")
        clip = _clip(chunk, path)
        where = f"{chunk}, clip {clip['key']!r}"
        numbers, encoded = clip.get("cameras"), clip.get("images")
        if not isinstance(numbers, Tensor) or numbers.ndim != 2 or numbers.shape[1] != 18 or len(numbers) == 0:
            raise BadSceneError(f"{where}: 'cameras' is no tensor of V x 18 numbers; {REMEDY}")
        if not isinstance(encoded, list) or len(encoded) != len(numbers):
            raise BadSceneError(
                f"{where}: 'images' is no list of one photo for each of {len(numbers)} cameras; {REMEDY}"
            )
        views = [
            _view(f"{where}, view {view}", row, photo, max_size)
            for view, (row, photo) in enumerate(zip(numbers.double().numpy(), encoded, strict=True))
        ]
        train, test = train_test_split(len(views), test_every)
        return SceneData(
            name=str(clip["key"]),
            cameras=Cameras(
                torch.from_numpy(np.stack([view.K for view in views])).float(),
                torch.from_numpy(np.stack([view.cam_from_world for view in views])).float(),
                torch.tensor([view.photo.shape[1] for view in views]),
                torch.tensor([view.photo.shape[0] for view in views]),
            ),
            photos=[view.photo for view in views],
            image_names=tuple(f"{view:04d}.png" for view in range(len(views))),
            points=None,
            train=train,
            test=test,
            warnings=(f"the capture has no points: {NO_POINTS}",),
        )


class _View(NamedTuple):
    """``K`` [3, 3] in pixels, ``cam_from_world`` [4, 4], ``photo`` uint8 [H, W, 3]."""

    K: NDArray[np.float64]
    cam_from_world: NDArray[np.float64]
    photo: Tensor


def _chunk(path: Path) -> Path | None:
    try:
        return next((file for file in (path, path.parent) if file.suffix == ".torch" and file.is_file()), None)
    except (OSError, ValueError):
        return None


def _clip(chunk: Path, path: Path) -> dict[str, Any]:
    try:
        _check_archive(chunk)
        content = torch.load(chunk, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadSceneError(f"{chunk} cannot be read ({error.strerror or error}): check its permissions") from error
    except Exception as error:  # torch and zipfile raise anything on what is damaged
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadSceneError(f"{chunk} is no chunk of tensors ({reason}); {REMEDY}") from error
    if not isinstance(content, list) or not all(
        isinstance(clip, dict) and isinstance(clip.get("key"), str) for clip in content
    ):
        raise BadSceneError(f"{chunk} holds no list of clips with a 'key'; {REMEDY}")
    keys = [clip["key"] for clip in content]
    chosen = [clip for clip in content if path == chunk or clip["key"] == path.name]
    if len(chosen) == 1:
        return chosen[0]
    raise BadSceneError(f"{path}: the chunk holds {len(keys)} clips ({abbreviated(keys)}); give {chunk}/KEY")


def _view(where: str, row: NDArray[np.float64], encoded: Any, max_size: int) -> _View:
    if not np.isfinite(row).all() or not (np.abs(row) < 1e30).all() or min(row[0], row[1]) <= 0:
        raise BadSceneError(f"{where}: its camera is not finite or has no focal length; {REMEDY}")
    photo = _decode(where, encoded, max_size)
    height, width = photo.shape[:2]
    K = np.array([[row[0] * width, 0, row[2] * width], [0, row[1] * height, row[3] * height], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3] = row[6:].reshape(3, 4)
    left, lengths, right = np.linalg.svd(pose[:3, :3])
    if np.abs(lengths - 1).max() > SHEAR or np.linalg.det(left @ right) < 0:
        raise BadSceneError(f"{where}: its pose is no rotation; {REMEDY}")
    pose[:3, :3] = left @ right
    return _View(K, pose, torch.from_numpy(photo))


def _decode(where: str, encoded: Any, max_size: int) -> NDArray[np.uint8]:
    if not isinstance(encoded, Tensor) or encoded.ndim != 1 or encoded.dtype != torch.uint8:
        raise BadSceneError(f"{where}: its photo is no tensor of bytes; {REMEDY}")
    try:
        photo = decode_photo(io.BytesIO(encoded.numpy().tobytes()))
    except ValueError as error:
        raise BadSceneError(f"{where}: its photo {error}; {REMEDY}") from error
    height, width = photo.shape[:2]
    scale = min(1.0, max_size / max(width, height))
    return area_filter(photo, max(1, round(width * scale)), max(1, round(height * scale)))


def _check_archive(chunk: Path) -> None:
    """`ValueError` unless the file is whole, and no part of it unpacks to more than it takes."""
    with zipfile.ZipFile(chunk) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        damaged = archive.testzip() if not packed else packed[0]
    if damaged is not None:
        raise ValueError(f"{damaged} in it is {'packed' if packed else 'damaged'}")
