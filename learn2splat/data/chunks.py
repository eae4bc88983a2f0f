"""RE10K and DL3DV chunks: the ``.torch`` files that pixelSplat (Charatan et al. 2024) and its successors train on."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.cache import PIXELS
from learn2splat.data.photos import area_filter, decode_photo
from learn2splat.data.point_cloud import NO_POINTS
from learn2splat.data.posed import abbreviated
from learn2splat.data.views import train_test_split

REMEDY = "download the chunk again"
SHEAR = 1e-2


LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How files begin that versions of torch before 1.6 wrote."""
INDEX = "index.json"


class ChunkSource:
    """One clip of a chunk: ``CHUNK``, or ``CHUNK/KEY`` when it holds several. Implements `SceneSource`.

    Of a folder of chunks with an ``index.json``, which says in which of them each clip is, ``FOLDER/KEY`` will do.

    A chunk is a list of clips with a ``key``, ``cameras`` [V, 18] (focal lengths and principal point in units of the
    picture's width and height, two zeros, cam-from-world [3, 4] in OpenCV's frame) and ``images``, encoded. Nothing is
    unpickled but tensors and plain containers.
    """

    name = "RE10K / DL3DV chunk"
    looks_for = "a file of tensors (.torch), or CHUNK/KEY for one of its clips"

    def recognises(self, path: Path) -> bool:
        """Whether ``path``, or what stands before its last part, is a file of tensors or a folder with an index."""
        return _place(path) is not None

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the clip; see `SceneSource.load`."""
        place = _place(path)
        if place is None:
            raise BadSceneError(f"{path} is no chunk: looked for {self.looks_for}")
        chunk, clip = _clip(place)
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
                torch.tensor([view.width for view in views]),
                torch.tensor([view.height for view in views]),
            ),
            photos=ClipPhotos(where, encoded, max_size, sum(3 * view.width * view.height for view in views)),
            image_names=tuple(f"{view:04d}.png" for view in range(len(views))),
            points=None,
            train=train,
            test=test,
            warnings=(f"the capture has no points: {NO_POINTS}",),
        )


class ClipPhotos:
    """Photos that stay encoded, and are decoded when they are asked for and kept as far as `PIXELS` goes.

    Args:
        where: of which clip, for messages.
        encoded: bytes of the V photos.
        max_size: upper bound of the long side in pixels.
        decoded_bytes: of all photos.
    """

    def __init__(self, where: str, encoded: Sequence[Tensor], max_size: int, decoded_bytes: int) -> None:
        self.where, self.encoded, self.max_size, self.decoded_bytes = where, tuple(encoded), max_size, decoded_bytes
        self.key = object()

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def bytes_to_come(self) -> int:
        """Most bytes that decoding all views adds to what this process holds."""
        return min(PIXELS.room_bytes, self.decoded_bytes)

    def __getitem__(self, view: int) -> Tensor:
        """The photo of one view, uint8 [H, W, 3]; shared with the cache, so not to be written to."""
        view %= len(self)

        def decoded() -> Tensor:
            return torch.from_numpy(_decode(f"{self.where}, view {view}", self.encoded[view], self.max_size))

        return cast(Tensor, PIXELS.get((self.key, "photo", view), decoded))


class _View(NamedTuple):
    """``K`` [3, 3] in pixels, ``cam_from_world`` [4, 4], and the size of the photo, which could be decoded."""

    K: NDArray[np.float64]
    cam_from_world: NDArray[np.float64]
    width: int
    height: int


class _Place(NamedTuple):
    """A chunk, or a folder of them with an index, and the clip that is asked for; None: the only one."""

    path: Path
    key: str | None


def _place(path: Path) -> _Place | None:
    try:
        places = (_Place(path, None), _Place(path.parent, path.name))
        return next((place for place in places if _is_chunk(place.path) or _index(place.path)), None)
    except (OSError, ValueError):
        return None


def _is_chunk(path: Path) -> bool:
    """Whether torch wrote the file, or its name says so."""
    if not path.is_file():
        return False
    if path.suffix == ".torch":
        return True
    with path.open("rb") as file:
        if file.read(len(LEGACY)) == LEGACY:
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises anything on what is damaged
        return False


def _index(folder: Path) -> dict[str, str]:
    """Clip -> name of its chunk; empty where there is no index of chunks."""
    try:
        content = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    names = list(content.values()) if isinstance(content, dict) else []
    sound = all(isinstance(name, str) and name == Path(name).name for name in names)
    return content if names and sound and _is_chunk(folder / names[0]) else {}


def _clip(place: _Place) -> tuple[Path, dict[str, Any]]:
    """Chunk and content of the clip that is asked for."""
    index = _index(place.path)
    if not index:
        return place.path, _read(place.path, place.key)
    key = place.key or (next(iter(index)) if len(index) == 1 else None)
    if key not in index:
        raise BadSceneError(
            f"{place.path / INDEX} lists {len(index)} clips ({abbreviated(list(index))}); give {place.path}/KEY"
        )
    return place.path / index[key], _read(place.path / index[key], key)


def _read(chunk: Path, key: str | None) -> dict[str, Any]:
    try:
        _check_archive(chunk)
        content = torch.load(chunk, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise BadSceneError(f"{chunk} cannot be read ({reason}): it has to be a file that may be read") from error
    except Exception as error:  # torch and zipfile raise anything on what is damaged
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadSceneError(f"{chunk} is no chunk of tensors ({reason}); {REMEDY}") from error
    if not isinstance(content, list) or not all(
        isinstance(clip, dict) and isinstance(clip.get("key"), str) for clip in content
    ):
        raise BadSceneError(f"{chunk} holds no list of clips with a 'key'; {REMEDY}")
    keys = [clip["key"] for clip in content]
    chosen = [clip for clip in content if key in (None, clip["key"])]
    if len(chosen) == 1:
        return chosen[0]
    what = "the chunk holds" if key is None else f"no clip {key!r} in it, which holds"
    raise BadSceneError(f"{chunk}: {what} {len(keys)} clips ({abbreviated(keys)}); give {chunk}/KEY")


def _view(where: str, row: NDArray[np.float64], encoded: Any, max_size: int) -> _View:
    if not np.isfinite(row).all() or not (np.abs(row) < 1e30).all() or min(row[0], row[1]) <= 0:
        raise BadSceneError(f"{where}: its camera is not finite or has no focal length; {REMEDY}")
    height, width = _decode(where, encoded, max_size).shape[:2]
    K = np.array([[row[0] * width, 0, row[2] * width], [0, row[1] * height, row[3] * height], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3] = row[6:].reshape(3, 4)
    left, lengths, right = np.linalg.svd(pose[:3, :3])
    if np.abs(lengths - 1).max() > SHEAR or np.linalg.det(left @ right) < 0:
        raise BadSceneError(f"{where}: its pose is no rotation; {REMEDY}")
    pose[:3, :3] = left @ right
    return _View(K, pose, width, height)


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
    with chunk.open("rb") as file:
        if file.read(len(LEGACY)) == LEGACY:
            raise ValueError("a version of torch before 1.6 wrote it: load it there, and save it with a later one")
    with zipfile.ZipFile(chunk) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        damaged = archive.testzip() if not packed else packed[0]
    if damaged is not None:
        raise ValueError(f"{damaged} in it is {'packed' if packed else 'damaged'}")
