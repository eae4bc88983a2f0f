"""The PLY that 3DGS viewers read (Kerbl et al. 2023), both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from learn2splat.data.base import BadSceneError
from learn2splat.data.point_cloud import read_vertices
from learn2splat.errors import UserError
from learn2splat.files import write_whole
from learn2splat.scene.gaussians import GaussianScene

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")


class BadPlyError(UserError):
    """A PLY that is not a Gaussian scene; the message names the file and what is wrong."""


def write_ply(scene: GaussianScene, path: Path) -> None:
    """Write the raw parameters as a binary little-endian PLY.

    The harmonics are channel-major as every viewer expects: ``f_dc_c`` and ``f_rest_(c * (K - 1) + k - 1)``.
    """
    rest = scene.sh.shape[1] - 1
    names = [*_MEANS, *_NORMALS, *(f"f_dc_{c}" for c in range(3)), *(f"f_rest_{i}" for i in range(3 * rest))]
    names += ["opacity", *_SCALES, *_QUATS]
    columns = [
        scene.means,
        torch.zeros_like(scene.means),
        scene.sh[:, 0],
        scene.sh[:, 1:].permute(0, 2, 1).reshape(len(scene), 3 * rest),
        scene.logit_opacities[:, None],
        scene.log_scales,
        scene.quats,
    ]
    table = torch.cat([column.detach().cpu().float() for column in columns], dim=1).numpy()
    vertices = np.ascontiguousarray(table, dtype="<f4").view([(name, "<f4") for name in names])[:, 0]
    element = PlyElement.describe(vertices, "vertex")
    write_whole(path, lambda temporary: PlyData([element], byte_order="<").write(str(temporary)))


def read_ply(path: Path) -> GaussianScene:
    """Read a Gaussian PLY; float32 tensors on the CPU.

    Raises:
        BadPlyError: no such file, not a PLY, truncated, or not one of Gaussians.
    """
    try:
        vertices = read_vertices(path)
    except BadSceneError as error:
        raise BadPlyError(str(error)) from error
    present = set(vertices.dtype.names or ())
    required = [*_MEANS, "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *_SCALES, *_QUATS]
    missing = [name for name in required if name not in present]
    if missing:
        raise BadPlyError(f"{path}: not a Gaussian scene, it lacks {', '.join(missing)}; export it from a 3DGS tool")
    rest = sum(name.startswith("f_rest_") for name in present)
    if rest not in (0, 9, 24, 45):
        raise BadPlyError(f"{path}: {rest} f_rest_* properties; harmonics of degree 0-3 have 0, 9, 24 or 45")

    def columns(names: tuple[str, ...] | list[str]) -> torch.Tensor:
        try:
            stacked = [np.asarray(vertices[name], dtype=np.float32) for name in names]
        except (TypeError, ValueError) as error:
            raise BadPlyError(f"{path}: a property is not one number a vertex ({error})") from error
        return torch.from_numpy(np.stack(stacked, axis=1) if stacked else np.zeros((len(vertices), 0), np.float32))

    higher = columns([f"f_rest_{i}" for i in range(rest)]).view(len(vertices), 3, rest // 3).permute(0, 2, 1)
    scene = GaussianScene(
        means=columns(_MEANS),
        log_scales=columns(_SCALES),
        quats=columns(_QUATS),
        logit_opacities=columns(["opacity"])[:, 0],
        sh=torch.cat([columns(["f_dc_0", "f_dc_1", "f_dc_2"])[:, None], higher], dim=1).contiguous(),
    )
    if not scene.is_finite():
        raise BadPlyError(f"{path}: it holds NaN or infinite values")
    return scene
