"""COLMAP's text files: one line per camera and point, two per image, # begins a comment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from learn2splat.data.base import BadSceneError
from learn2splat.data.colmap_records import REMEDY, RegisteredImage, SparsePoints, make_image, make_lens, read_file
from learn2splat.data.lens import Lens

Line = tuple[str, str]
"""Where a line stands ("FILE, line N") and its text, stripped."""


def read_cameras(path: Path) -> dict[int, Lens]:
    """Lenses by camera id; `BadSceneError` when the file is damaged."""
    lenses: dict[int, Lens] = {}
    for where, line in _content(_lines(path)):
        fields = line.split()
        if len(fields) < 5:
            raise _bad(where, line, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS...")
        try:
            camera_id, width, height = int(fields[0]), int(fields[2]), int(fields[3])
            params = tuple(float(field) for field in fields[4:])
        except ValueError:
            raise _bad(where, line, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS...") from None
        if camera_id in lenses:
            raise BadSceneError(f"{where}: camera {camera_id} is there twice; {REMEDY}")
        lenses[camera_id] = make_lens(where, fields[1], width, height, params)
    return lenses


def read_images(path: Path) -> list[RegisteredImage]:
    """Posed images in the order of the file; `BadSceneError` when it is damaged."""
    images = []
    lines = _lines(path)
    for where, line in _content(lines):
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise _bad(where, line, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        try:
            pose = tuple(float(field) for field in fields[1:8])
            camera_id = int(fields[8])
        except ValueError:
            raise _bad(where, line, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from None
        images.append(make_image(where, fields[9], camera_id, pose[:4], pose[4:]))
        # the second line of an image is its 2D points, and empty when it has none
        where, observations = next(lines, (where, ""))
        if len(observations.split()) % 3:
            raise _bad(where, observations, "the 2D points (X Y POINT3D_ID)... or an empty line, after every image")
    return images


def read_points(path: Path) -> SparsePoints:
    """All points; `BadSceneError` when the file is damaged."""
    positions, colors = [], []
    for where, line in _content(_lines(path)):
        fields = line.split(maxsplit=7)
        try:
            positions.append((float(fields[1]), float(fields[2]), float(fields[3])))
            color = (int(fields[4]), int(fields[5]), int(fields[6]))
        except (ValueError, IndexError):
            raise _bad(where, line, "POINT3D_ID X Y Z R G B ERROR TRACK...") from None
        if not all(0 <= value <= 255 for value in color):
            raise _bad(where, line, "a colour of three numbers from 0 to 255")
        colors.append(color)
    return SparsePoints(
        np.array(positions, dtype=np.float64).reshape(-1, 3), np.array(colors, dtype=np.uint8).reshape(-1, 3)
    )


def _lines(path: Path) -> Iterator[Line]:
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise BadSceneError(f"{path} is not UTF-8 text at byte {error.start}; {REMEDY}") from None
    # not splitlines(): that also splits at control characters which may be part of a name
    for number, line in enumerate(text.split("\n"), start=1):
        yield f"{path}, line {number}", line.strip()


def _content(lines: Iterator[Line]) -> Iterator[Line]:
    for where, line in lines:
        if line and not line.startswith("#"):
            yield where, line


def _bad(where: str, line: str, expected: str) -> BadSceneError:
    shown = line if len(line) <= 60 else line[:60] + "..."
    return BadSceneError(f"{where}: expected {expected}, found {shown!r}; {REMEDY}")
