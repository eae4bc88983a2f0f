"""Every reader of files, with files that it accepts: what `fuzzing` damages."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData, PlyElement

from learn2splat import checkpoint
from learn2splat.api import open_session
from learn2splat.data import colmap_binary, colmap_text
from learn2splat.data.base import BadSceneError, SceneData, SceneSource
from learn2splat.data.chunks import ChunkSource
from learn2splat.data.colmap_text_writer import write_colmap_text
from learn2splat.data.colmap_writer import write_colmap
from learn2splat.data.masks import LazyMasks, check_mask
from learn2splat.data.photos import LazyPhotos, PhotoFile, decode_photo, photo_size
from learn2splat.data.point_cloud import read_point_ply
from learn2splat.data.polycam import PolycamSource
from learn2splat.data.procedural.source import make_scene
from learn2splat.data.procedural.spec import ProceduralSpec
from learn2splat.data.record3d import Record3DSource
from learn2splat.data.transforms_json import read_transforms
from learn2splat.eval.store import RowStore
from learn2splat.meta import buffer
from learn2splat.optim.learned.pretrained import SHIPPED, load_pretrained, shipped
from learn2splat.run_config import compose_run, resumed
from learn2splat.run_folder import RunFolder
from learn2splat.scene.initialise import from_points
from learn2splat.scene.ply import read_ply, write_ply
from learn2splat.session import Listener
from tests.fuzzing import Prey, Read, finite, of_files
from tests.readers_trained import TRAINED

SPEC = ProceduralSpec(seed=3, views=3, width=24, height=16, points=4)


def capture() -> SceneData:
    return make_scene(SPEC).data


def colmap(folder: Path, name: str) -> Prey:
    made = make_scene(SPEC)
    is_text = name.endswith(".txt")
    if is_text:
        write_colmap_text(made.data, folder / "scene")
    else:
        write_colmap(made.data, folder / "scene", tracks=made.sparse.tracks)
    path = folder / "scene" / "sparse" / "0" / name
    stem = path.stem.lower().replace("3d", "")
    read: Read = getattr(colmap_text if is_text else colmap_binary, f"read_{stem}")
    return of_files([path.read_bytes()], path, read)


def point_ply(folder: Path) -> Prey:
    table = np.zeros(3, [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")])
    for number, text in enumerate((True, False)):
        PlyData([PlyElement.describe(table, "vertex")], text=text, byte_order="<").write(str(folder / f"{number}.ply"))
    return of_files([(folder / f"{n}.ply").read_bytes() for n in (0, 1)], folder / "a.ply", read_point_ply)


def gaussian_ply(folder: Path) -> Prey:
    points = capture().points
    assert points is not None
    path = folder / "a.ply"
    write_ply(from_points(points, 1), path)
    return of_files([path.read_bytes()], path, lambda path: finite(read_ply(path).is_finite()))


def transforms(folder: Path) -> Prey:
    """A file as nerfstudio writes it, and one of Blender, whose photos are looked at for their size."""
    for name in "ab":
        Image.new("RGB", (8, 6)).save(folder / f"{name}.png")
    frames = [{"file_path": f"./{name}.png", "transform_matrix": np.eye(4).tolist()} for name in "ab"]
    lens = {"fl_x": 9.0, "fl_y": 9.5, "cx": 4, "cy": 3, "w": 8, "h": 6, "k1": 0.01, "camera_model": "OPENCV"}
    nerfstudio = {**lens, "test_filenames": ["a.png"], "frames": frames}
    blender = {"camera_angle_x": 0.7, "frames": [frame | {"file_path": frame["file_path"][:-4]} for frame in frames]}
    sound = [json.dumps(content).encode() for content in (nerfstudio, blender)]

    def read(path: Path) -> None:
        for photo in read_transforms(path).photos:
            finite(bool(np.isfinite(photo.cam_from_world).all()))

    return of_files(sound, folder / "transforms.json", read, BadSceneError)


def polycam(folder: Path) -> Prey:
    path = folder / "keyframes" / "cameras" / "1.json"
    path.parent.mkdir(parents=True)
    (folder / "keyframes" / "images").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "keyframes" / "images" / "1.png")
    content = {f"t_{row}{column}": float(row == column) for row in range(3) for column in range(4)}
    content |= {"fx": 9.0, "fy": 9.5, "cx": 4, "cy": 3, "width": 8, "height": 6, "blur_score": 99.5}
    return of_files([json.dumps(content).encode()], path, lambda path: loaded(PolycamSource(), folder), BadSceneError)


def record3d(folder: Path) -> Prey:
    (folder / "rgb").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 6)).save(folder / "rgb" / f"{number}.png")
    content = {"w": 8, "h": 6, "K": [9.0, 0, 0, 0, 9.5, 0, 4, 3, 1], "poses": [[0, 0, 0, 1.0, 1, 2, 3]] * 2}
    path = folder / "metadata.json"
    return of_files([json.dumps(content).encode()], path, lambda path: loaded(Record3DSource(), folder), BadSceneError)


def loaded(source: SceneSource, path: Path) -> None:
    cameras = source.load(path, max_size=16, test_every=0).cameras
    finite(bool(torch.isfinite(cameras.K).all() and torch.isfinite(cameras.cam_from_world).all()))


def chunk(folder: Path) -> Prey:
    row = torch.tensor([[0.8, 1.4, 0.5, 0.5, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2.0]])
    photo = torch.frombuffer(bytearray(picture("PNG", "RGB")), dtype=torch.uint8)
    path = folder / "a.torch"
    torch.save([{"key": "a", "cameras": row, "images": [photo.clone()]}], path)
    return of_files([path.read_bytes()], path, lambda path: loaded(ChunkSource(), path), BadSceneError)


def photo(folder: Path) -> Prey:
    """Every kind that captures come as."""
    kinds = [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK")]
    kinds += [("JPEG", "L"), ("TIFF", "RGB"), ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "P")]

    def read(path: Path) -> None:
        width, height = photo_size(path)
        pixels = decode_photo(path)
        finite(pixels.shape == (height, width, 3) and pixels.dtype == np.uint8)

    return of_files([picture(*kind) for kind in kinds], folder / "a", read, ValueError)


def picture(kind: str, mode: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
    (image if mode == "I;16" else image.convert(mode)).save(stream, kind)
    return stream.getvalue()


def buffer_entry(folder: Path) -> Prey:
    """Entries whose checksum fits, so that HDF5 itself is reached."""
    tensors = {
        "scene/means": torch.zeros(5, 3),
        "views": torch.arange(2),
        "photo": torch.zeros(2, 2, dtype=torch.uint8),
    }
    content = buffer._to_bytes(buffer.Entry(3, tensors, {"a": 1}))

    def read(path: Path) -> None:
        buffer._read(path, buffer._digest(path.read_bytes()))

    return of_files([content], folder / "a.h5", read, OSError, ValueError)


def optimizer_manifest(folder: Path) -> Prey:
    """The part that rebuilds the architecture, without the story of the training."""
    tensors, config = checkpoint.load(SHIPPED / shipped()[0], "optimizer")
    checkpoint.save(folder / "a", "optimizer", tensors, {"architecture": config["architecture"], "about": {}})
    path = folder / "a" / checkpoint.MANIFEST
    return of_files([path.read_bytes()], path, lambda path: load_pretrained(str(path.parent)))


def optimizer_tensors(folder: Path) -> Prey:
    """Tensors whose checksum fits, so that safetensors itself is reached."""
    checkpoint.save(folder / "a", "optimizer", {"a": torch.zeros(3, 2), "b": torch.arange(4)}, {})
    manifest, path = folder / "a" / checkpoint.MANIFEST, folder / "a" / checkpoint.TENSORS
    about = json.loads(manifest.read_text())

    def read(path: Path) -> None:
        manifest.write_text(json.dumps(about | {"sha256": checkpoint._digest(path)}))
        checkpoint.load(path.parent, "optimizer")

    return of_files([path.read_bytes()], path, read)


def tiny_run(folder: Path) -> Any:
    """A finished run in ``folder``."""
    spec = "procedural:seed=3,views=3,width=24,height=16"
    given = {"scene": spec, "steps": 1, "max_gaussians": 4, "sh_degree": 0, "out": folder, "optimizer": "adam"}
    session = open_session(given, ["max_size=24"])
    session.run(Listener(), lambda: False)
    return session


def run_manifest(folder: Path) -> Prey:
    session = tiny_run(folder / "run")
    path = folder / "run" / "checkpoint" / checkpoint.MANIFEST
    run = RunFolder(folder / "run")
    return of_files([path.read_bytes()], path, lambda path: run.load_checkpoint(session.rollout.sampler))


def run_config(folder: Path) -> Prey:
    tiny_run(folder / "run")
    run, given = RunFolder(folder / "run"), compose_run({})
    path = folder / "run" / "config.yaml"
    return of_files([path.read_bytes()], path, lambda path: resumed(run, given))


def run_metrics(folder: Path) -> Prey:
    tiny_run(folder / "run")
    path = folder / "run" / "metrics.jsonl"
    return of_files([path.read_bytes()], path, lambda path: RunFolder(path.parent).read_metrics(5.0))


def rows(folder: Path) -> Prey:
    path = folder / "rows.sqlite"
    RowStore(path).register("adam", "0")
    return of_files([path.read_bytes()], path, lambda path: RowStore(path).rows())


def mask(folder: Path) -> Prey:
    """Of a photo of 8 x 6 pixels."""
    shown = folder / "photo.png"
    shown.write_bytes(picture("PNG", "RGB"))

    def read(path: Path) -> None:
        check_mask(path, (8, 6))
        used = LazyMasks(LazyPhotos([PhotoFile(shown, 4, 3, None, path)]))[0]
        finite(used.shape == (3, 4) and used.dtype == torch.bool)

    white, sound = Image.new("L", (8, 6), 255), []
    white.putpixel((0, 0), 0)
    for kind, mode in (("PNG", "L"), ("PNG", "1"), ("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L")):
        stream = io.BytesIO()
        white.convert(mode).save(stream, kind)
        sound.append(stream.getvalue())
    return of_files(sound, folder / "mask", read, ValueError)


COLMAP = [f"{stem}.{suffix}" for suffix in ("bin", "txt") for stem in ("cameras", "images", "points3D")]
READERS: dict[str, Callable[[Path], Prey]] = {
    **{name: lambda folder, name=name: colmap(folder, name) for name in COLMAP},  # type: ignore[misc]
    "point ply": point_ply,
    "gaussian ply": gaussian_ply,
    "transforms.json": transforms,
    "polycam": polycam,
    "record3d": record3d,
    "chunk": chunk,
    "photo": photo,
    "buffer entry": buffer_entry,
    "optimizer manifest": optimizer_manifest,
    "safetensors": optimizer_tensors,
    "run manifest": run_manifest,
    "run config": run_config,
    "run metrics": run_metrics,
    "leaderboard rows": rows,
    "mask": mask,
    **TRAINED,
}
"""Name -> what makes its prey in a folder."""
