"""Captures posed by a ``transforms.json``, and Blender-synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learn2splat.data.base import BadSceneError, PointCloud, SceneData
from learn2splat.data.point_cloud import NO_POINTS, read_point_ply, usable_points
from learn2splat.data.posed import PosedPhoto, abbreviated, assemble
from learn2splat.data.transforms_json import Transforms, read_transforms
from learn2splat.data.views import train_test_split


class TransformsSource:
    """nerfstudio's and instant-ngp's format. Implements `SceneSource`.

    Photos are undistorted when they are decoded. The split is that of the file when it lists one, unless
    ``test_every`` is 0. A ``ply_file_path`` gives the sparse points, the ``mask_path`` of a frame its mask.
    """

    name = "nerfstudio / instant-ngp"
    looks_for = "a folder with transforms.json, or such a file"

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` is a JSON file with ``frames`` or a folder with a ``transforms.json``."""
        return _is_file(path / "transforms.json") or (path.suffix == ".json" and _names_frames(path))

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the scene; see `SceneSource.load`."""
        file = path if _is_file(path) else path / "transforms.json"
        one = read_transforms(file)
        photos, warnings = _present(file.parent, [one])
        held_out = None if one.held_out is None else [photo.name in one.held_out for photo in photos]
        points = _points(one, warnings)
        split = _split(file, held_out, len(photos), test_every)
        return assemble(file.resolve().parent.name, photos, points, split, max_size, warnings)


class BlenderSource:
    """Blender-synthetic captures (NeRF, Mildenhall et al. 2020). Implements `SceneSource`.

    Transparent photos are shown over the background of the run. Held out is what ``transforms_test.json`` (else
    ``transforms_val.json``) lists, unless ``test_every`` is 0.
    """

    name = "Blender"
    looks_for = "a folder with transforms_train.json"

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` holds a ``transforms_train.json``."""
        return _is_file(path / "transforms_train.json")

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load the scene; see `SceneSource.load`."""
        train = path / "transforms_train.json"
        others = [path / f"transforms_{kind}.json" for kind in ("test", "val")]
        files = [train, *[other for other in others if _is_file(other)][:1]]
        read = [read_transforms(file) for file in files]
        photos, warnings = _present(path, read)
        tested = {photo.name for photo in read[1].photos} if len(read) == 2 else set()
        shared = sorted(tested & {photo.name for photo in read[0].photos})
        if shared:
            raise BadSceneError(f"{files[1]} and {train} share photos ({abbreviated(shared)}): remove them from one")
        held_out = [photo.name in tested for photo in photos] if tested else None
        points = _points(read[0], warnings)
        split = _split(train, held_out, len(photos), test_every)
        return assemble(path.resolve().name, photos, points, split, max_size, warnings)


def _present(folder: Path, files: Sequence[Transforms]) -> tuple[list[PosedPhoto], list[str]]:
    """All photos that are there, in order of names, and what is suspicious."""
    photos = sorted((photo for one in files for photo in one.photos), key=lambda photo: photo.name)
    missing = [name for one in files for name in one.missing]
    if not photos:
        raise BadSceneError(
            f"none of the {len(missing)} photos ({abbreviated(missing)}) was found; put them into {folder}"
        )
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing)} of {len(missing) + len(photos)} photos are missing in {folder} and were left out: "
            f"{abbreviated(missing)}"
        )
    return photos, warnings


def _points(one: Transforms, warnings: list[str]) -> PointCloud | None:
    if one.points is None:
        warnings.append(f"the capture names no point cloud: {NO_POINTS}")
        return None
    return usable_points(*read_point_ply(one.points), warnings)


def _split(
    file: Path, held_out: Sequence[bool] | None, count: int, test_every: int
) -> tuple[Sequence[int], Sequence[int]]:
    """(train, test) view indices: those of the capture when it has a split."""
    by_number = train_test_split(count, test_every)
    if test_every == 0 or held_out is None:
        return by_number
    train = [view for view in range(count) if not held_out[view]]
    if not train:
        raise BadSceneError(f"{file}: every photo is held out for testing; give some to train on, or --test-every 0")
    return train, [view for view in range(count) if held_out[view]]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _names_frames(path: Path) -> bool:
    """Whether the key is in the file, which may be damaged."""
    try:
        return b'"frames"' in path.read_bytes()
    except (OSError, ValueError):
        return False
