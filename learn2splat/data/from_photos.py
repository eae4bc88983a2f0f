"""A scene from a plain folder of photos: poses and points by COLMAP (Schoenberger and Frahm 2016), on the CPU.

Features are SIFT; nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image, ImageOps

from learn2splat.data.base import BadSceneError
from learn2splat.data.photos import photo_size
from learn2splat.data.registration import Registration
from learn2splat.files import writing

Value = TypeVar("Value")
Progress = Callable[[str, int | None, int], object]

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MATCHINGS = ("auto", "exhaustive", "sequential")
MOST_EXHAUSTIVE = 100
"""Photos up to which "auto" matches all pairs; the time grows with the square."""
OVERLAP = 10
"""Photos after each one that sequential matching compares it with, and as many at doubling distances."""
LEAST_PHOTOS = 3
POLL_SECONDS = 0.1
ORIENTATION, EXIF_IFD, FOCAL_LENGTH = 0x0112, 0x8769, 0x920A
"""EXIF tags."""


class Stopped(Exception):
    """The work was stopped from outside; nothing was written."""


def scene_from_photos(
    photos: Path,
    out: Path,
    *,
    matching: str = "auto",
    max_size: int = 1600,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Registration:
    """Make a COLMAP scene, ``images/`` and ``sparse/0/``, from photos; whole or not at all.

    Photos that the camera marked as turned are stored upright, the others as they are. Photos of one size without a
    focal length in their EXIF data, such as frames of a film, share one lens; others are grouped by COLMAP.

    Args:
        photos: folder with photos, in subfolders as well.
        out: folder to make; must not hold anything.
        matching: "exhaustive" (all pairs), "sequential" (a film, in the order of names), or "auto" (all pairs of up to
            `MOST_EXHAUSTIVE` photos).
        max_size: long side in pixels at which features are looked for.
        seed: of COLMAP's random sampling; several threads may differ in the last digits all the same.
        progress: told (stage, photos done, photos) again and again; None where COLMAP does not tell.
        stop: asked again and again; True gives up.

    Returns:
        How many photos have a pose, and what is doubtful about the poses.

    Raises:
        BadSceneError: too few photos, one that cannot be decoded, or no two that fit together.
        FileExistsError: ``out`` holds something.
        CannotWriteError: there is no writing beside ``out``.
        Stopped: ``stop`` said so.
    """
    if matching not in MATCHINGS:
        raise BadSceneError(f"matching={matching!r}: give one of {', '.join(MATCHINGS)}")
    if max_size < 64:
        raise BadSceneError(f"max_size={max_size}: features need 64 pixels or more")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder: name a new one or remove it first")
    names = _photo_names(photos)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    with temporary as holder:
        work, scene = Path(holder), Path(holder) / "scene"
        for count, name in enumerate(names):
            progress("photos", count, len(names))
            _copy_upright(photos / name, scene / "images" / name)
            if stop():
                raise Stopped
        registration = _Colmap(work, names, progress, stop).run(matching, max_size, seed)
        if out.is_dir():
            out.rmdir()
        os.replace(scene, out)
    return registration


def _photo_names(folder: Path) -> list[str]:
    """The photos of ``folder`` relative to it, sorted, each of which has been looked at."""
    if not folder.is_dir():
        raise BadSceneError(f"{folder} is no folder: give the one that holds the photos")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if len(names) < LEAST_PHOTOS:
        known = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
        raise BadSceneError(
            f"{folder} holds {len(names)} photos ({known}): {LEAST_PHOTOS} are needed at least, 20 better"
        )
    for name in names:
        try:
            photo_size(folder / name)
        except ValueError as error:
            raise BadSceneError(f"photo {folder / name} {error}; restore or remove it") from error
    return names


def _copy_upright(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        exif = image.getexif()
        if exif.get(ORIENTATION, 1) == 1:
            shutil.copyfile(source, target)
            return
        upright = ImageOps.exif_transpose(image)
        exif[ORIENTATION] = 1
        upright.save(target, format=image.format, exif=exif, quality=95)


def _share_a_lens(photos: Sequence[Path]) -> bool:
    """Whether nothing tells the lenses of ``photos`` apart: one size, and no focal length in the EXIF data.

    COLMAP would give each such photo a focal length of its own, which trades off with the distance.
    """
    sizes = set()
    for path in photos:
        with Image.open(path) as image:
            if FOCAL_LENGTH in image.getexif().get_ifd(EXIF_IFD):
                return False
            sizes.add(image.size)
    return len(sizes) == 1


class _Colmap:
    """The three stages in a folder ``work``: from the photos in ``scene/images`` to the model in ``scene/sparse/0``."""

    def __init__(self, work: Path, names: Sequence[str], progress: Progress, stop: Callable[[], bool]) -> None:
        self.work, self.names, self.progress, self.stop = work, names, progress, stop
        self.images, self.database = work / "scene" / "images", work / "database.db"

    def run(self, matching: str, max_size: int, seed: int) -> Registration:
        import pycolmap

        with _quiet(pycolmap):
            pycolmap.set_random_seed(seed)
            self._extract(pycolmap, max_size)
            self._match(pycolmap, matching)
            models = self._map(pycolmap, seed)
        model = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
        if model is None or model.num_reg_images() < LEAST_PHOTOS:
            nothing = Registration(len(self.names), tuple(self.names), 0, 0.0, 0)
            raise BadSceneError(f"the photos do not fit together: {nothing.advice[0]}")
        sparse = self.work / "scene" / "sparse" / "0"
        sparse.mkdir(parents=True)
        model.write(sparse)
        images = [model.images[number] for number in model.reg_image_ids()]
        points_in = {image.name: image.num_points3D for image in sorted(images, key=lambda image: image.name)}
        return Registration(
            photos=len(self.names),
            missing=tuple(name for name in self.names if name not in points_in),
            points=model.num_points3D(),
            error_px=float(model.compute_mean_reprojection_error()),
            pieces=len(models),
            shrunk_by=max(1.0, max(max(photo_size(self.images / name)) for name in self.names) / max_size),
            track=float(model.compute_mean_track_length()),
            points_in=points_in,
        )

    def _extract(self, pycolmap: Any, max_size: int) -> None:
        options = pycolmap.FeatureExtractionOptions()
        options.max_image_size, options.num_threads, options.use_gpu = max_size, torch.get_num_threads(), False
        shared = _share_a_lens([self.images / name for name in self.names])
        mode = pycolmap.CameraMode.SINGLE if shared else pycolmap.CameraMode.AUTO
        self._watch(
            "features",
            lambda token: pycolmap.extract_features(
                self.database, self.images, camera_mode=mode, extraction_options=options, device=pycolmap.Device.cpu,
                cancellation_token=token,
            ),
        )  # fmt: skip

    def _match(self, pycolmap: Any, matching: str) -> None:
        options = pycolmap.FeatureMatchingOptions()
        options.num_threads, options.use_gpu = torch.get_num_threads(), False
        count = len(self.names)
        settings = {"matching_options": options, "device": pycolmap.Device.cpu}
        if matching == "exhaustive" or (matching == "auto" and count <= MOST_EXHAUSTIVE):
            match = pycolmap.match_exhaustive
        else:
            pairing = pycolmap.SequentialPairingOptions()
            pairing.overlap, pairing.quadratic_overlap = OVERLAP, True
            match, settings["pairing_options"] = pycolmap.match_sequential, pairing
        self._watch("matches", lambda token: match(self.database, cancellation_token=token, **settings))

    def _map(self, pycolmap: Any, seed: int) -> dict[int, Any]:
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads, options.random_seed = torch.get_num_threads(), seed
        options.min_model_size = LEAST_PHOTOS
        models, placed = self.work / "models", [0]
        models.mkdir()

        def count(number: int) -> None:
            placed[0] += number

        return self._watch(
            "poses",
            lambda token: pycolmap.incremental_mapping(
                self.database, self.images, models, options, initial_image_pair_callback=lambda: count(2),
                next_image_callback=lambda: count(1), cancellation_token=token,
            ),
            lambda: min(placed[0], len(self.names)),
        )  # fmt: skip

    def _watch(self, stage: str, work: Callable[[Any], Value], done: Callable[[], int | None] = lambda: None) -> Value:
        """What ``work`` returns; meanwhile the progress is told, and a stop is passed on."""
        import pycolmap

        token = pycolmap.CancellationToken()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work, token)
            while not future.done():
                self.progress(stage, done(), len(self.names))
                if self.stop():
                    token.cancel()
                time.sleep(POLL_SECONDS)
        if self.stop():
            raise Stopped
        result = future.result()
        self.progress(stage, len(self.names), len(self.names))
        return result


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """COLMAP logs its progress; here only what is fatal."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
