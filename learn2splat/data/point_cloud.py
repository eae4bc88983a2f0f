"""Sparse points: which of them can be used, and PLY files of coloured points."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyParseError

from learn2splat.data.base import BadSceneError, PointCloud

SUSPICIOUS_DUPLICATES = 0.1
"""Share of repeated points above which a person is told; real reconstructions repeat up to 5 %."""

NO_POINTS = "a run starts from random points, inside the visual hull where photos are transparent"

_HEADER_BYTES = 1 << 16
_SIZES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_SIZES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}


def usable_points(positions: NDArray[np.float64], colors: NDArray[np.uint8], warnings: list[str]) -> PointCloud | None:
    """The finite and distinct of P points; what was dropped, or that there are none, goes into ``warnings``.

    Args:
        positions: [P, 3] world units.
        colors: [P, 3] RGB.
        warnings: is appended to.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = positions.astype(np.float32) + np.float32(0.0)  # -0 and 0 are one place
    finite = np.isfinite(rounded).all(axis=1).nonzero()[0]
    _, first = np.unique(rounded[finite], axis=0, return_index=True)
    kept = finite[np.sort(first)]
    if len(finite) < len(rounded):
        warnings.append(f"{len(rounded) - len(finite)} of {len(rounded)} points are not finite and were left out")
    if len(finite) - len(kept) > SUSPICIOUS_DUPLICATES * len(finite):
        warnings.append(f"{len(finite) - len(kept)} of {len(rounded)} points are duplicates and were left out")
    if not len(kept):
        warnings.append(f"the capture has no points: {NO_POINTS}")
        return None
    return PointCloud(torch.from_numpy(rounded[kept]), torch.from_numpy(colors[kept]).float() / 255.0)


def read_point_ply(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Positions [P, 3] and colours [P, 3] of the vertices of a PLY; grey when it has no colours.

    Raises:
        BadSceneError: no such file, not a PLY, truncated, or without positions.
    """
    vertices = read_vertices(path)
    present = set(vertices.dtype.names or ())
    try:
        positions = np.stack([np.asarray(vertices[name], dtype=np.float64) for name in ("x", "y", "z")], axis=1)
        colors = np.full(positions.shape, 128, np.uint8)
        if {"red", "green", "blue"} <= present:
            channels = [np.asarray(vertices[name]) for name in ("red", "green", "blue")]
            # floating-point colours are in 0..1
            scale = 255.0 if channels[0].dtype.kind == "f" else 1.0
            stacked = np.nan_to_num(np.stack(channels, axis=1).astype(np.float64) * scale)
            colors = stacked.round().clip(0, 255).astype(np.uint8)
    except (TypeError, ValueError) as error:
        raise BadSceneError(f"{path}: x, y, z and colours are to be one number a vertex ({error})") from error
    return positions, colors


def read_vertices(path: Path) -> NDArray[np.void]:
    """The ``vertex`` element of a PLY as a structured array [N].

    Raises:
        BadSceneError: no such file, not a PLY with vertices, or shorter than it announces.
    """
    try:
        _check_announced(path)
        return np.asarray(PlyData.read(str(path), mmap=False)["vertex"].data)
    except FileNotFoundError:
        raise BadSceneError(f"{path}: no such file; check the spelling") from None
    except (PlyParseError, KeyError, ValueError, EOFError, OverflowError, OSError) as error:
        raise BadSceneError(f"{path}: not a readable PLY with vertices ({error}); export it anew") from error


def _check_announced(path: Path) -> None:
    """`ValueError` when the file cannot hold what its header announces: nothing is allocated before."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise ValueError("it has no PLY header")
    is_text, elements = False, list[list[int]]()  # count and least bytes of one, of each element
    for line in re.split(rb"[\r\n]+", head[:end]):
        word = line.decode("ascii", "replace").split()
        if word[:1] == ["format"]:
            is_text = word[1:2] == ["ascii"]
        elif word[:1] == ["element"] and len(word) == 3:
            elements.append([int(word[2]), 0])
        elif word[:1] == ["property"] and len(word) > 2 and elements:
            # as text a number and a blank; a list holds at least its length
            elements[-1][1] += 2 if is_text else 1 if word[1] == "list" else _SIZES.get(word[1], 1)
    needed = sum(count * max(row, 1) for count, row in elements)
    if any(count < 0 for count, _ in elements) or needed > size + 1:  # the last blank may be missing
        raise ValueError(f"it announces {needed} bytes and holds {size}: truncated")
