"""Masks beside photos on disk: what of a photo is not to be looked at, in the geometry of its view.

A mask is a picture as large as its photo; where it is black (0), the photo is ignored. That is how COLMAP (folder of
``NAME.jpg.png``) and nerfstudio (``mask_path``) store them. instant-ngp's ``dynamic_mask_NAME.png`` are the other way
round: black is what is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from learn2splat.data.base import BadSceneError
from learn2splat.data.cache import PIXELS
from learn2splat.data.photos import LazyPhotos, PhotoFile, area_filter, photo_size

DYNAMIC = "dynamic_mask_"
"""How the names of masks of instant-ngp begin."""
REACH_PX = 2
"""How far beside its nearest pixel the interpolation of a photo looks when it is undistorted."""
LEAST_SHARE = 1e-4
"""Of a pixel: less of it that is masked is rounding."""


def check_mask(mask: Path, photo: tuple[int, int]) -> None:
    """`ValueError`, a sentence whose subject is the photo, unless ``mask`` is there and has the size of the photo.

    Args:
        mask: the file.
        photo: (width, height) in pixels.
    """
    if not mask.is_file():
        raise ValueError(f"has no mask {mask}, which the capture names: restore it or take it out of the capture")
    try:
        size = photo_size(mask)
    except ValueError as error:
        raise ValueError(f"has a mask {mask} that {error}: restore it") from error
    if size != photo:
        raise ValueError(
            f"is {photo[0]}x{photo[1]} pixels, but its mask {mask} is {size[0]}x{size[1]}: give both one size"
        )


class LazyMasks:
    """Masks decoded on first use and kept as far as `PIXELS` goes. Implements `Masks`.

    A pixel of a view is used when nothing that is masked went into it: neither by undistortion nor by the area filter.

    Args:
        photos: the V views; those without a mask are used as a whole.
    """

    def __init__(self, photos: LazyPhotos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, view: int) -> Tensor:
        """Which pixels of a view are used, bool [H, W]; shared with the cache, so not to be written to.

        Raises:
            BadSceneError: the file changed, cannot be decoded, or hides all of the view.
        """
        file = self.photos.files[view]
        found = PIXELS.get((self.photos.key, "mask", view % len(self)), lambda: torch.from_numpy(self._load(file)))
        return cast(Tensor, found)

    def _load(self, file: PhotoFile) -> NDArray[np.bool_]:
        if file.mask is None:
            return np.ones((file.height, file.width), dtype=np.bool_)
        try:
            with Image.open(file.mask) as image:
                hidden = (np.asarray(image.convert("L")) == 0) ^ file.mask.name.startswith(DYNAMIC)
        except Exception as error:  # decoders of damaged files raise anything
            raise BadSceneError(f"mask {file.mask} cannot be decoded ({error}); restore or remove it") from error
        if hidden.shape != photo_size(file.path)[::-1]:
            raise BadSceneError(f"mask {file.mask} changed its size since the scene was loaded")
        if file.lens is not None:
            hidden = self._undistort(hidden, file)
        used = ~_covered(hidden, file.width, file.height)
        if not used.any():
            raise BadSceneError(f"mask {file.mask} hides all of {file.path}: remove the photo, or invert it")
        return used

    def _undistort(self, hidden: NDArray[np.bool_], file: PhotoFile) -> NDArray[np.bool_]:
        assert file.lens is not None
        width, height = file.undistorted_at(hidden.shape[1], hidden.shape[0])
        side = 2 * REACH_PX + 1
        grown = cv2.dilate(_covered(hidden, width, height).astype(np.uint8), np.ones((side, side), np.uint8))
        where = self.photos.undistortion_map(file.lens, width, height)
        return np.asarray(cv2.remap(grown, where[0], where[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE) > 0)


def _covered(hidden: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    """Which pixels of a smaller picture cover something that is ``hidden``, [height, width]."""
    return np.asarray(area_filter(hidden.astype(np.float32), width, height) > LEAST_SHARE)
