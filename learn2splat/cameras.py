"""Pinhole cameras and the conventions of the whole package.

World units are the scene's own. The camera frame is OpenCV's: +x right, +y down, +z forward.
Pixel centres lie at +0.5: the top-left pixel covers [0, 1] x [0, 1]. A point ``p_world`` projects to
``K @ (cam_from_world @ p_world)`` divided by its third coordinate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of V undistorted pinhole cameras.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        cam_from_world: [V, 4, 4] rigid transforms.
        widths: [V] int64, image width in pixels.
        heights: [V] int64, image height in pixels.
    """

    K: Tensor
    cam_from_world: Tensor
    widths: Tensor
    heights: Tensor

    def __post_init__(self) -> None:
        views = self.K.shape[0]
        expected = {"K": (views, 3, 3), "cam_from_world": (views, 4, 4), "widths": (views,), "heights": (views,)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"Cameras.{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")

    @classmethod
    def of_one_size(cls, K: Tensor, cam_from_world: Tensor, width: int, height: int) -> Cameras:
        """Cameras that share one image size."""
        size = torch.ones(K.shape[0], dtype=torch.int64, device=K.device)
        return cls(K, cam_from_world, size * width, size * height)

    def __len__(self) -> int:
        return self.K.shape[0]

    @property
    def width(self) -> int:
        """The common width of all views in pixels; ``ValueError`` when they differ."""
        return self._common(self.widths, "widths")

    @property
    def height(self) -> int:
        """The common height of all views in pixels; ``ValueError`` when they differ."""
        return self._common(self.heights, "heights")

    @staticmethod
    def _common(sizes: Tensor, name: str) -> int:
        values = set(sizes.tolist())
        if len(values) != 1:
            raise ValueError(f"views of several {name} {sorted(values)}: render them by `groups_by_size()`")
        return values.pop()

    @property
    def longest_side(self) -> int:
        """Of all pictures, in pixels."""
        return int(torch.stack([self.widths, self.heights]).max())

    def take(self, index: Tensor | list[int]) -> Cameras:
        """The views at ``index`` [M], in that order."""
        index = torch.as_tensor(index, dtype=torch.int64, device=self.K.device)
        return Cameras(self.K[index], self.cam_from_world[index], self.widths[index], self.heights[index])

    def groups_by_size(self) -> Iterator[tuple[Tensor, Cameras]]:
        """Pairs (index into this batch [M], cameras of one image size), in order of first appearance."""
        sizes = list(zip(self.widths.tolist(), self.heights.tolist(), strict=True))
        for size in dict.fromkeys(sizes):
            index = torch.tensor([i for i, other in enumerate(sizes) if other == size])
            yield index, self.take(index)

    def resized(self, widths: Tensor, heights: Tensor) -> Cameras:
        """The same views with other image sizes; intrinsics follow (pixel centres stay at +0.5)."""
        scale_x = widths.to(self.K) / self.widths.to(self.K)
        scale_y = heights.to(self.K) / self.heights.to(self.K)
        scale = torch.stack([scale_x, scale_y, torch.ones_like(scale_x)], dim=-1)
        return replace(self, K=self.K * scale[:, :, None], widths=widths, heights=heights)

    def rays(self, pixels: Tensor) -> Tensor:
        """[V, ..., 3] viewing directions through ``pixels`` [..., 2], in the camera's frame, with z = 1."""
        homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
        return torch.einsum("vij,...j->v...i", torch.linalg.inv(self.K), homogeneous)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """Move everything to ``device`` and the matrices to ``dtype``."""
        return Cameras(
            self.K.to(device=device, dtype=dtype),
            self.cam_from_world.to(device=device, dtype=dtype),
            self.widths.to(device=device),
            self.heights.to(device=device),
        )

    @property
    def centers_world(self) -> Tensor:
        """[V, 3] camera centres in world units."""
        rotation = self.cam_from_world[:, :3, :3]
        return -(rotation.mT @ self.cam_from_world[:, :3, 3:])[..., 0]

    @property
    def extent_world(self) -> float:
        """1.1 x the largest distance of a camera from the mean of all centres (Inria 3DGS's scene extent)."""
        centers = self.centers_world
        return 1.1 * float((centers - centers.mean(dim=0)).norm(dim=-1).max())
