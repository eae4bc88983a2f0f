"""Photos on disk: checked early, decoded late, at the resolution and in the geometry of the cameras.

Photos are taken as they are stored: the EXIF orientation is not applied, because reconstructions refer to raw
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from learn2splat.data.base import BadSceneError
from learn2splat.data.cache import PIXELS
from learn2splat.data.lens import Lens

Number = TypeVar("Number", np.uint8, np.float32)

TAIL_BYTES = 4096
PIXELS_PER_BYTE, ALWAYS_PIXELS = 10_000, 1 << 22
"""No photo is compressed more than that, but for one as small as this: a larger one announces what it cannot hold."""
END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}


@dataclass(frozen=True)
class PhotoFile:
    """A photo and how a view shows it.

    Args:
        path: the file.
        width, height: size of the view in pixels, at most that of the file.
        lens: the lens whose distortion is to be removed; None for a photo that is a pinhole image.
        mask: picture as large as the photo, black where it is to be ignored; see `masks`.
    """

    path: Path
    width: int
    height: int
    lens: Lens | None = None
    mask: Path | None = None

    def undistorted_at(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) at which a photo of ``width`` x ``height`` is undistorted: up to twice that of the view."""
        return min(width, 2 * self.width), min(height, 2 * self.height)


def fit_photo(path: Path, lens: Lens, max_size: int) -> tuple[PhotoFile, NDArray[np.float64]]:
    """The view of one photo and its intrinsics.

    Args:
        path: the photo; may be a uniformly rescaled version of what ``lens`` was calibrated on.
        lens: calibration.
        max_size: upper bound of the view's long side in pixels.

    Returns:
        The photo and K [3, 3] of the undistorted view in pixels of that view.

    Raises:
        ValueError: the photo cannot be decoded, or its shape is not that of the camera.
    """
    width, height = photo_size(path)
    # is there one scale that explains both sides to within a pixel of rounding?
    lowest = max((width - 1) / lens.width, (height - 1) / lens.height)
    highest = min((width + 1) / lens.width, (height + 1) / lens.height)
    if lowest > highest:
        turned = abs(width * lens.width - height * lens.height) <= width + height
        remedy = "it looks turned by 90 degrees" if turned and width != height else "it is cropped or another photo"
        raise ValueError(
            f"is {width}x{height} pixels, but its camera was calibrated at {lens.width}x{lens.height}: {remedy}"
        )
    scale = min(1.0, max_size / max(width, height))
    view = PhotoFile(
        path, max(1, round(width * scale)), max(1, round(height * scale)), None if lens.is_pinhole else lens
    )
    K = np.diag([view.width / lens.width, view.height / lens.height, 1.0]) @ lens.pinhole()
    return view, K


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) of a photo in pixels, from its header.

    The end of the file is looked at as well; a photo that does not end as its format should is decoded in full.

    Raises:
        ValueError: it cannot be decoded; says why.
    """
    try:
        with _open(path) as image:
            mark = END_MARKS.get(image.format or "")
            if mark is None or mark not in _tail(path):
                image.load()
            return image.width, image.height
    except Exception as error:  # decoders of damaged files raise anything
        raise ValueError(_reason(error)) from error


def decode_photo(path: Path | BinaryIO, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.uint8]:
    """A photo in full resolution.

    Args:
        path: 8- or 16-bit grey, RGB, CMYK or palette image, with or without alpha.
        background: RGB in 0..1 that shows through where alpha is below one.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: it cannot be decoded; says why.
    """
    try:
        with _open(path) as image:
            if image.mode.startswith("I"):
                grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
                return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
            if image.mode == "F":
                raise ValueError("floating-point images have no agreed range; convert it to 8-bit PNG")
            if not image.has_transparency_data:
                return np.array(image.convert("RGB"))
            rgba = np.array(image.convert("RGBA"))
    except Exception as error:  # decoders of damaged files raise anything
        raise ValueError(_reason(error)) from error
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    blended = rgba[..., :3] * alpha + np.float32(255.0) * np.array(background, dtype=np.float32) * (1.0 - alpha)
    return np.asarray(np.rint(blended), dtype=np.uint8)


def area_filter(image: NDArray[Number], width: int, height: int) -> NDArray[Number]:
    """``image`` [H, W] or [H, W, 3] shrunk to ``height`` x ``width``: each pixel is the mean of the area it covers."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=image.dtype)


class LazyPhotos:
    """Photos decoded on first use and kept as far as `PIXELS` goes. Implements `TransparentPhotos`.

    Undistortion happens at up to twice the view's resolution, so that its interpolation does not blur the view;
    photos without distortion see nothing but the area filter.

    Args:
        files: the V views.
        background: RGB in 0..1 behind transparent photos.
    """

    def __init__(self, files: Sequence[PhotoFile], *, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.files = tuple(files)
        self.background = background
        self.key = object()  # of what is kept of these photos; another one in another process

    def __len__(self) -> int:
        return len(self.files)

    def over(self, background: tuple[float, float, float]) -> LazyPhotos:
        """The same photos with ``background`` where they are transparent; see `TransparentPhotos`."""
        if background == self.background:
            return self
        return LazyPhotos(self.files, background=background)

    def __getitem__(self, view: int) -> Tensor:
        """The photo of one view, uint8 [H, W, 3]; shared with the cache, so not to be written to.

        Raises:
            BadSceneError: the file changed or cannot be decoded.
        """
        file = self.files[view]
        found = PIXELS.get((self.key, "photo", view % len(self)), lambda: torch.from_numpy(self._load(file)))
        return cast(Tensor, found)

    @property
    def bytes_to_come(self) -> int:
        """Most bytes that decoding all views, with their masks, adds to what this process holds."""
        pixels = sum(file.width * file.height * (3 if file.mask is None else 4) for file in self.files)
        return min(PIXELS.room_bytes, pixels)

    def undistortion_map(self, lens: Lens, width: int, height: int) -> NDArray[np.float32]:
        """`Lens.undistortion_map`, worked out once as far as memory for it goes."""
        found = PIXELS.get((self.key, "map", lens, width, height), lambda: lens.undistortion_map(width, height))
        return cast(NDArray[np.float32], found)

    def _load(self, file: PhotoFile) -> NDArray[np.uint8]:
        try:
            image = decode_photo(file.path, self.background)
        except ValueError as error:
            raise BadSceneError(f"photo {file.path} {error}; restore or remove it") from error
        height, width = image.shape[:2]
        if height < file.height or width < file.width:
            raise BadSceneError(f"photo {file.path} changed its size to {width}x{height} since the scene was loaded")
        if file.lens is not None:
            image = self._undistort(image, file)
        return area_filter(image, file.width, file.height)

    def _undistort(self, image: NDArray[np.uint8], file: PhotoFile) -> NDArray[np.uint8]:
        lens = file.lens
        assert lens is not None
        width, height = file.undistorted_at(image.shape[1], image.shape[0])
        source = area_filter(image, width, height)
        where = self.undistortion_map(lens, width, height)
        # the view may reach half a pixel beyond the outermost pixel centres: replicated, not mixed with black
        undistorted = cv2.remap(source, where[0], where[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted, dtype=np.uint8)


@contextmanager
def _open(path: Path | BinaryIO) -> Iterator[Image.Image]:
    """A picture whose pixels are not decoded yet; `ValueError` when the file cannot hold those that it announces."""
    with path.open("rb") if isinstance(path, Path) else nullcontext(path) as file, Image.open(file) as image:
        position = file.tell()
        size = file.seek(0, 2)
        file.seek(position)
        if image.width * image.height > max(ALWAYS_PIXELS, PIXELS_PER_BYTE * size):
            raise ValueError(f"it announces {image.width}x{image.height} pixels and holds {size} bytes")
        yield image


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - TAIL_BYTES))
        return file.read()


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "cannot be decoded (it begins like no kind of picture)"
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return f"cannot be decoded ({first_line})"
