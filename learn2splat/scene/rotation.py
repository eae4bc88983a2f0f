"""Quaternions as rotations."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """[N, 4] wxyz quaternions of any norm but zero -> [N, 3, 3]."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternions(rotations: Tensor) -> Tensor:
    """[..., 3, 3] rotations -> [..., 4] wxyz unit quaternions, up to sign."""
    r = rotations
    x, y, z = (r[..., i, i] for i in range(3))
    squares = torch.stack([1 + x + y + z, 1 + x - y - z, 1 - x + y - z, 1 - x - y + z], dim=-1)  # 4 q_i^2
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    rows = [[squares[..., 0], wx, wy, wz], [wx, squares[..., 1], xy, xz], [wy, xy, squares[..., 2], yz]]
    rows.append([wz, xz, yz, squares[..., 3]])
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # 4 q q^T: its largest row is exact
    largest = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    chosen = products.gather(-2, largest)[..., 0, :]
    return chosen / chosen.norm(dim=-1, keepdim=True)


def multiplied(one: Tensor, two: Tensor) -> Tensor:
    """The Hamilton product of quaternions [..., 4] wxyz: the rotation ``two``, followed by ``one``."""
    a, b, c, d = one.unbind(-1)
    w, x, y, z = two.unbind(-1)
    parts = [
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    ]
    return torch.stack(parts, dim=-1)
