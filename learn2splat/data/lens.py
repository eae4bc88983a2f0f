"""COLMAP's camera models: which parameters they have, and the pinhole view that replaces a distorted one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_ZOOM, MAX_ZOOM = 0.25, 4.0
"""Bounds of the focal length of the undistorted view, relative to that of the photo."""

WIDEST_CORNER = np.deg2rad(65.0)
"""A corner of the undistorted view is zoomed out up to this angle: beyond it a pinhole image is mostly border."""

LONGEST_SIDE = 1_000_000
MAP_PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class CameraModel:
    """One of COLMAP's camera models.

    Args:
        name: COLMAP's name.
        focals: leading parameters that are focal lengths (0 for panoramas); the principal point follows.
        parameters: number of parameters.
        pinhole_without: leading distortion parameters which make the model a pinhole when they are zero;
            None when no value does.
    """

    name: str
    focals: int
    parameters: int
    pinhole_without: int | None


MODELS = {
    0: CameraModel("SIMPLE_PINHOLE", 1, 3, 0),
    1: CameraModel("PINHOLE", 2, 4, 0),
    2: CameraModel("SIMPLE_RADIAL", 1, 4, 1),
    3: CameraModel("RADIAL", 1, 5, 2),
    4: CameraModel("OPENCV", 2, 8, 4),
    5: CameraModel("OPENCV_FISHEYE", 2, 8, None),
    6: CameraModel("FULL_OPENCV", 2, 12, 8),
    7: CameraModel("FOV", 2, 5, 1),
    8: CameraModel("SIMPLE_RADIAL_FISHEYE", 1, 4, None),
    9: CameraModel("RADIAL_FISHEYE", 1, 5, None),
    10: CameraModel("THIN_PRISM_FISHEYE", 2, 12, None),
    11: CameraModel("RAD_TAN_THIN_PRISM_FISHEYE", 2, 16, None),
    12: CameraModel("SIMPLE_DIVISION", 1, 4, 1),
    13: CameraModel("DIVISION", 2, 5, 1),
    14: CameraModel("SIMPLE_FISHEYE", 1, 3, None),
    15: CameraModel("FISHEYE", 2, 4, None),
    16: CameraModel("EUCM", 2, 6, 1),
    17: CameraModel("EQUIRECTANGULAR", 0, 2, None),
}
"""COLMAP's models by the number that its binary files use."""

MODELS_BY_NAME = {model.name: model for model in MODELS.values()}


@dataclass(frozen=True)
class Lens:
    """A calibrated camera with its distortion.

    Args:
        model: COLMAP's name of the camera model.
        width, height: size of the photos that the parameters speak of, in pixels.
        params: parameters in COLMAP's order; focal lengths and principal point in pixels, centres at +0.5.

    Raises:
        ValueError: unknown model, wrong number of parameters, impossible size, focal length or non-finite value.
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.model not in MODELS_BY_NAME:
            raise ValueError(f"unknown camera model {self.model!r}; known: {', '.join(MODELS_BY_NAME)}")
        if not (0 < self.width <= LONGEST_SIDE and 0 < self.height <= LONGEST_SIDE):
            raise ValueError(f"an image size of {self.width}x{self.height} pixels is impossible")
        expected = MODELS_BY_NAME[self.model].parameters
        if len(self.params) != expected:
            raise ValueError(f"{self.model} takes {expected} parameters, found {len(self.params)}")
        if not np.isfinite(np.asarray(self.params)).all():
            raise ValueError(f"a parameter is not finite: {self.params}")
        if self.model == "EQUIRECTANGULAR":
            raise ValueError("a panorama (EQUIRECTANGULAR) has no pinhole view; cut it into perspective views first")
        long_side = max(self.width, self.height)
        if not all(1e-3 * long_side <= focal <= 1e4 * long_side for focal in self.focal):
            raise ValueError(f"a focal length of {self.focal} pixels is impossible for a {long_side} pixels wide image")
        if not all(abs(value) <= 1e4 * long_side for value in self.principal_point):
            raise ValueError(f"a principal point at {self.principal_point} is impossible")

    @property
    def focal(self) -> tuple[float, float]:
        """(fx, fy) in pixels."""
        return self.params[0], self.params[MODELS_BY_NAME[self.model].focals - 1]

    @property
    def principal_point(self) -> tuple[float, float]:
        """(cx, cy) in pixels."""
        start = MODELS_BY_NAME[self.model].focals
        return self.params[start], self.params[start + 1]

    @property
    def is_pinhole(self) -> bool:
        """Whether the photo is a pinhole image as it is."""
        model = MODELS_BY_NAME[self.model]
        if model.pinhole_without is None:
            return False
        start = model.focals + 2
        return not any(self.params[start : start + model.pinhole_without])

    def project(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels of the photo [N, 2] seen along ``rays`` [N, 2] (x/z, y/z); non-finite where the model has none."""
        homogeneous = np.concatenate([rays, np.ones_like(rays[:, :1])], axis=1)
        with np.errstate(all="ignore"):
            return np.asarray(self._camera.img_from_cam(homogeneous), dtype=np.float64)

    @cached_property
    def _camera(self) -> Any:
        import pycolmap

        return pycolmap.Camera(model=self.model, width=self.width, height=self.height, params=list(self.params))

    @cached_property
    def zoom(self) -> float:
        """Focal length of the undistorted view relative to the photo's.

        The smallest (widest) for which the outline of a view of the photo's size and principal point lies inside
        the photo, and the lens model has not folded back on the way there; 1 when there is none within
        ``MIN_ZOOM``..``MAX_ZOOM``, see `covers_view`.
        """
        if self.is_pinhole:
            return 1.0
        border = self._border_rays()
        corner = float(np.linalg.norm(border, axis=1).max())
        widest = min(max(1.0, float(np.tan(WIDEST_CORNER)) / corner), 1.0 / MIN_ZOOM)
        spreads = np.geomspace(1.0 / MAX_ZOOM, widest, 192)
        usable = self._sees(spreads, border)
        count = len(usable) if usable.all() else int(usable.argmin())
        if count == 0:
            return 1.0
        low, high = spreads[count - 1], spreads[min(count, len(spreads) - 1)]
        for _ in range(24):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._sees(np.array([middle]), border)[0] else (low, middle)
        return float(1.0 / low)

    @cached_property
    def covers_view(self) -> bool:
        """Whether the undistorted view lies inside the photo; else its borders are smeared."""
        return self.is_pinhole or bool(self._sees(np.array([1.0 / self.zoom]), self._border_rays())[0])

    def pinhole(self) -> NDArray[np.float64]:
        """K [3, 3] of the undistorted view, in pixels at ``width`` x ``height``; same principal point."""
        (fx, fy), (cx, cy) = self.focal, self.principal_point
        return np.array([[self.zoom * fx, 0.0, cx], [0.0, self.zoom * fy, cy], [0.0, 0.0, 1.0]])

    def undistortion_map(self, width: int, height: int) -> NDArray[np.float32]:
        """Where each pixel of the undistorted view lies in the photo, both at ``width`` x ``height``.

        Returns:
            [2, height, width] indices x and y as ``cv2.remap`` takes them: the first pixel's centre is 0.
        """
        scale = np.array([self.width / width, self.height / height])
        focal = self.zoom * np.array(self.focal)
        columns = np.arange(width) + 0.5
        result = np.empty((2, height, width), dtype=np.float32)
        rows_at_once = max(1, MAP_PIXELS_AT_ONCE // width)
        for start in range(0, height, rows_at_once):
            rows = np.arange(start, min(start + rows_at_once, height)) + 0.5
            pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2) * scale
            seen = self.project((pixels - self.principal_point) / focal) / scale - 0.5
            # remap wants finite indices; what lies outside is taken from the nearest edge
            seen = np.nan_to_num(np.clip(seen, -10.0, 10.0 + max(width, height)), nan=-10.0)
            result[:, start : start + len(rows)] = seen.T.reshape(2, len(rows), width)
        return result

    def _border_rays(self) -> NDArray[np.float64]:
        """Rays [B, 2] along the photo's outline if it were a pinhole image."""
        x, y = np.linspace(0.0, self.width, 65), np.linspace(0.0, self.height, 65)
        sides = [(x, np.full_like(x, y[0])), (x, np.full_like(x, y[-1])), (np.full_like(y, x[0]), y)]
        sides.append((np.full_like(y, x[-1]), y))
        pixels = np.concatenate([np.stack(side, axis=-1) for side in sides])
        return np.asarray((pixels - self.principal_point) / self.focal)

    def _sees(self, spreads: NDArray[np.float64], border: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[T] whether the rays ``spreads`` [T] x ``border`` [B, 2] all meet the photo where the lens is one-to-one."""
        radii = []
        for nudge in (1.0, 1.0 + 1e-4):
            rays = (nudge * spreads)[:, None, None] * border
            pixels = self.project(rays.reshape(-1, 2)).reshape(rays.shape)
            if nudge == 1.0:
                size = np.array([self.width, self.height])
                inside = (pixels >= -1e-6) & (pixels <= size + 1e-6)
            with np.errstate(all="ignore"):
                radii.append(np.linalg.norm(pixels - self.principal_point, axis=-1))
        # a lens model folds back where the radius no longer grows with the angle
        return np.asarray(inside.all(axis=(1, 2)) & (radii[1] > radii[0]).all(axis=1))
