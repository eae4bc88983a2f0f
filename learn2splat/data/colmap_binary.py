"""COLMAP's binary files: little-endian records behind a count, read with bounds checks."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from learn2splat.data.base import BadSceneError
from learn2splat.data.colmap_records import REMEDY, RegisteredImage, SparsePoints, make_image, make_lens, read_file
from learn2splat.data.lens import MODELS, Lens

COUNT = struct.Struct("<Q")
CAMERA = struct.Struct("<IiQQ")
IMAGE = struct.Struct("<I7dI")
POINT = np.dtype([("id", "<u8"), ("position", "<f8", 3), ("color", "u1", 3), ("error", "<f8"), ("track", "<u8")])
OBSERVATION_BYTES = 24
TRACK_ENTRY_BYTES = 8
LONGEST_NAME = 4096


class Reader:
    """A position in a file; every step forward is checked against its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_file(path)
        self.position = 0

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        """The next record."""
        start = self.skip(1, layout.size, what)
        return layout.unpack_from(self.data, start)

    def skip(self, count: int, record_bytes: int, what: str) -> int:
        """Step over ``count`` records; returns where they start."""
        start = self.position
        if count * record_bytes > len(self.data) - start:
            raise BadSceneError(
                f"{self.path} is truncated at byte {len(self.data)}: {what} starts at byte {start} and takes "
                f"{count * record_bytes} bytes; {REMEDY}"
            )
        self.position = start + count * record_bytes
        return start

    def count(self, record_bytes: int, what: str) -> int:
        """The number of records that the file announces, each of at least ``record_bytes``."""
        (count,) = self.unpack(COUNT, "the number of " + what)
        room = (len(self.data) - self.position) // record_bytes
        if count > room:
            raise BadSceneError(
                f"{self.path} announces {count} {what}, but is truncated at byte {len(self.data)} where at most {room} "
                f"fit; {REMEDY}"
            )
        return int(count)

    def name(self, what: str) -> str:
        """The next zero-terminated UTF-8 string."""
        end = self.data.find(b"\0", self.position, self.position + LONGEST_NAME)
        if end < 0:
            longest = min(LONGEST_NAME, len(self.data) - self.position)
            why = "is truncated" if longest < LONGEST_NAME else "is damaged"
            raise BadSceneError(
                f"{self.path} {why} at byte {self.position + longest}: {what} starts at byte {self.position} and does "
                f"not end; {REMEDY}"
            )
        try:
            name = self.data[self.position : end].decode()
        except UnicodeDecodeError:
            raise BadSceneError(f"{self.path}: {what} at byte {self.position} is not UTF-8; {REMEDY}") from None
        self.position = end + 1
        return name

    def finish(self, what: str) -> None:
        """Nothing may follow the last record."""
        extra = len(self.data) - self.position
        if extra:
            raise BadSceneError(f"{self.path} goes on for {extra} bytes after its last {what}: damaged; {REMEDY}")


def read_cameras(path: Path) -> dict[int, Lens]:
    """Lenses by camera id; `BadSceneError` when the file is damaged."""
    reader = Reader(path)
    lenses: dict[int, Lens] = {}
    for number in range(reader.count(CAMERA.size, "cameras")):
        camera_id, model_id, width, height = reader.unpack(CAMERA, f"camera record {number}")
        where = f"{path}: camera {camera_id}"
        if model_id not in MODELS:
            raise BadSceneError(
                f"{where} has the unknown model number {model_id} (known: 0 to {max(MODELS)}); {REMEDY}"
            )
        if camera_id in lenses:
            raise BadSceneError(f"{where} is there twice; {REMEDY}")
        model = MODELS[model_id]
        params = reader.unpack(struct.Struct(f"<{model.parameters}d"), f"the parameters of camera {camera_id}")
        lenses[camera_id] = make_lens(where, model.name, width, height, params)
    reader.finish("camera")
    return lenses


def read_images(path: Path) -> list[RegisteredImage]:
    """Posed images in the order of the file; `BadSceneError` when it is damaged."""
    reader = Reader(path)
    images = []
    for number in range(reader.count(IMAGE.size + 1 + COUNT.size, "images")):
        image_id, *pose, camera_id = reader.unpack(IMAGE, f"image record {number}")
        name = reader.name(f"the name of image {image_id}")
        (observations,) = reader.unpack(COUNT, f"the number of 2D points of image {image_id}")
        reader.skip(observations, OBSERVATION_BYTES, f"the list of {observations} 2D points of image {image_id}")
        images.append(make_image(f"{path}: image {image_id}", name, camera_id, tuple(pose[:4]), tuple(pose[4:])))
    reader.finish("image")
    return images


def read_points(path: Path) -> SparsePoints:
    """All points; `BadSceneError` when the file is damaged."""
    reader = Reader(path)
    starts = np.empty(reader.count(POINT.itemsize, "points"), dtype=np.int64)
    track_at = POINT.itemsize - COUNT.size
    for number in range(len(starts)):
        starts[number] = start = reader.skip(1, POINT.itemsize, f"point record {number}")
        (track,) = COUNT.unpack_from(reader.data, start + track_at)
        reader.skip(track, TRACK_ENTRY_BYTES, f"the track of point record {number}")
    reader.finish("point")
    data = np.frombuffer(reader.data, dtype=np.uint8)
    records = data[starts[:, None] + np.arange(POINT.itemsize)].view(POINT)[:, 0]
    return SparsePoints(records["position"].astype(np.float64), records["color"].copy())
