"""Small files for web viewers: ``.splat`` (antimatter15) and ``.spz`` version 2 (Niantic), from a scene; lossy.

``.splat`` holds 32 bytes a Gaussian and no harmonics above degree 0. ``.spz`` is compressed, keeps the harmonics and
has its axes turned: +x right, +y up, +z backward, against +y down and +z forward of a 3DGS PLY.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.errors import UserError
from learn2splat.files import write_whole
from learn2splat.scene.gaussians import GaussianScene, opacities, scales, sh0_to_rgb
from learn2splat.scene.harmonics import sh_basis
from learn2splat.scene.ply import write_ply

SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 2
SPZ_FRACTION_BITS = 12
SPZ_COLOR_SCALE = 0.15
SPZ_SH_BITS = (5, 4, 4)
"""Bits that are kept of a coefficient of degree 1, 2 and 3, so that it compresses well."""

TURN = torch.tensor([1.0, -1.0, -1.0])


def write_scene(scene: GaussianScene, path: Path) -> None:
    """Write ``scene`` in the format that the suffix of ``path`` names: .ply, .splat or .spz.

    Raises:
        UserError: another suffix, or positions that .spz cannot hold.
    """
    encoders: dict[str, Callable[[GaussianScene], bytes]] = {".splat": splat_bytes, ".spz": spz_bytes}
    if path.suffix == ".ply":
        write_ply(scene, path)
    elif path.suffix in encoders:
        content = encoders[path.suffix](scene.to("cpu", torch.float32).detach())
        write_whole(path, lambda temporary: temporary.write_bytes(content))
    else:
        raise UserError(f"{path}: no format is called {path.suffix!r}; give a name that ends in .ply, .splat or .spz")


def splat_bytes(scene: GaussianScene) -> bytes:
    """Position and scale as float32, then RGBA and rotation in bytes, those first that cover most."""
    size, opacity = scales(scene), opacities(scene)
    order = torch.argsort(size.prod(dim=1) * opacity, descending=True, stable=True)
    rgba = torch.cat([sh0_to_rgb(scene.sh[:, 0]), opacity[:, None]], dim=1) * 255
    floats = torch.cat([scene.means, size], dim=1)[order].numpy().astype("<f4").view(np.uint8)
    small = np.concatenate([_bytes(rgba), _bytes(_unit(scene.quats) * 128 + 128)], axis=1)[order.numpy()]
    return np.concatenate([floats, small], axis=1).tobytes()


def spz_bytes(scene: GaussianScene) -> bytes:
    """The quantised and compressed scene, attribute by attribute.

    Raises:
        UserError: a position is beyond the range of 24 bits.
    """
    fixed = (scene.means.double() * TURN * 2**SPZ_FRACTION_BITS).round()
    if len(scene) and float(fixed.abs().max()) >= 2**23:
        raise UserError(f".spz holds positions up to {2 ** (23 - SPZ_FRACTION_BITS)} world units; rescale the scene")
    positions = fixed.int().numpy().astype("<i4")[..., None].view(np.uint8)[..., :3]
    quats = _unit(scene.quats)
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    parts = [
        positions,
        _bytes(opacities(scene) * 255),
        _bytes((SPZ_COLOR_SCALE * scene.sh[:, 0] + 0.5) * 255),
        _bytes((scene.log_scales + 10) * 16),
        _bytes(quats[:, 1:] * TURN * 127.5 + 127.5),
        _harmonics(scene),
    ]
    header = struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, len(scene), scene.sh_degree, SPZ_FRACTION_BITS, 0, 0)
    return gzip.compress(header + b"".join(part.tobytes() for part in parts), mtime=0)


def _harmonics(scene: GaussianScene) -> NDArray[np.uint8]:
    """[N, K - 1, 3] coefficients above degree 0, rounded to the middle of their buckets."""
    direction = torch.nn.functional.normalize(torch.tensor([0.3, 0.5, 0.7]), dim=0)
    signs = (sh_basis(TURN * direction, scene.sh_degree) / sh_basis(direction, scene.sh_degree)).sign()
    degrees = range(1, scene.sh_degree + 1)
    buckets = torch.tensor([2 ** (8 - SPZ_SH_BITS[n - 1]) for n in degrees for _ in range(2 * n + 1)])[:, None]
    values = (scene.sh[:, 1:] * signs[1:, None] * 128).round() + 128
    return _bytes(torch.div(values + buckets // 2, buckets, rounding_mode="floor") * buckets)


def _unit(quats: Tensor) -> Tensor:
    return torch.nn.functional.normalize(quats, dim=1)


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    return np.asarray(values.round().clamp(0, 255).byte().numpy())
