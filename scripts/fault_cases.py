"""What the faulty inputs of ``faults.py`` are made with: a sound capture, and ways to spoil it."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from learn2splat.data.colmap_text_writer import write_colmap_text
from learn2splat.data.colmap_writer import write_colmap
from learn2splat.data.procedural.source import make_scene
from learn2splat.data.procedural.spec import ProceduralSpec

SMALL = ["--max-size", "32", "--max-gaussians", "50", "--sh-degree", "0"]
OPTIMIZE = ["optimize", "--scene", "scene", "--optimizer", "adam", "--steps", "2", "--out", "run", *SMALL]
SPARSE = Path("scene/sparse/0")


@dataclass(frozen=True)
class Case:
    """A faulty input.

    Args:
        name: what is wrong, as in the table.
        spoil: makes it in a folder that holds a sound capture in ``scene`` (text) and in ``binary``.
        code: exit code.
        says: regular expression of what the message has to hold; empty when there is nothing to say.
        command: without ``l2s``; runs in that folder.
        limits: of a process of its own: ``RLIMIT_...`` -> bytes; None runs it in this process.
        mount: options of a tmpfs at ``disk``; None: no mount is needed.
    """

    name: str
    spoil: Callable[[Path], object]
    code: int
    says: str
    command: list[str]
    limits: dict[str, int] | None = None
    mount: str | None = None

    @property
    def kind(self) -> str:
        """ "here": it runs in this process; "limit" or "mount": it needs one of its own, with that."""
        return "mount" if self.mount is not None else "here" if self.limits is None else "limit"


CASES: dict[str, Case] = {}


def case(
    name: str,
    code: int,
    says: str,
    spoil: Callable[[Path], object] = lambda folder: None,
    command: list[str] | None = None,
    limits: dict[str, int] | None = None,
    mount: str | None = None,
) -> None:
    """Add a case; the command is `OPTIMIZE` when none is given."""
    CASES[name] = Case(name, spoil, code, says, command or OPTIMIZE, limits, mount)


def sound(folder: Path) -> None:
    """The capture that is spoiled: four photos of 32 x 24 pixels with twenty points."""
    made = make_scene(ProceduralSpec(seed=3, views=4, width=32, points=20))
    write_colmap_text(made.data, folder / "scene")
    write_colmap(made.data, folder / "binary", tracks=made.sparse.tracks)
    (folder / "scene" / "images").rename(folder / "images")
    (folder / "scene" / "images").mkdir()
    for path in sorted((folder / "images").iterdir()):
        Image.open(path).convert("RGB").save(folder / "scene" / "images" / path.name)
    shutil.rmtree(folder / "images")


def photo(folder: Path, number: int = 1) -> Path:
    return sorted((folder / "scene" / "images").iterdir())[number]


def pixels(folder: Path) -> np.ndarray:
    with Image.open(photo(folder)) as image:
        return np.array(image.convert("RGB"))


def cut(path: str, keep: float = 0.6) -> Callable[[Path], object]:
    """Keep the first part of a file."""

    def spoil(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(keep * len(content))])

    return spoil


def filled(path: str, content: bytes = b"\x9f\xe1 garbage \x00\xff" * 40) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes(content)


def edited(path: str, edit: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    """Change the lines of a text file that are no comments."""

    def spoil(folder: Path) -> None:
        lines = [line for line in (folder / path).read_text().split("\n") if not line.startswith("#")]
        (folder / path).write_text("\n".join(edit(lines)))

    return spoil


def word(line: str, number: int, value: str) -> str:
    words = line.split()
    return " ".join([*words[:number], value, *words[number + 1 :]])


def resaved(
    convert: Callable[[np.ndarray], Image.Image], suffix: str = ".png", **options: object
) -> Callable[[Path], object]:
    """Save a photo again in another way, under a name of that suffix."""

    def spoil(folder: Path) -> None:
        path = photo(folder)
        image = convert(pixels(folder))
        path.unlink()
        image.save(path.with_suffix(suffix), **options)
        lines = (folder / SPARSE / "images.txt").read_text()
        (folder / SPARSE / "images.txt").write_text(lines.replace(path.name, path.with_suffix(suffix).name))

    return spoil


def renamed(name: str) -> Callable[[Path], object]:
    """Give a photo, and its line in the model, another name."""

    def spoil(folder: Path) -> None:
        path = photo(folder)
        path.rename(path.with_name(name))
        lines = (folder / SPARSE / "images.txt").read_text(encoding="utf-8")
        (folder / SPARSE / "images.txt").write_text(lines.replace(path.name, name), encoding="utf-8")

    return spoil


def transforms(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    """Make the capture one of nerfstudio, with something changed."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / "scene" / "sparse")
        names = [path.name for path in sorted((folder / "scene" / "images").iterdir())]
        frames = [{"file_path": f"images/{name}", "transform_matrix": np.eye(4).tolist()} for name in names]
        for number, frame in enumerate(frames):
            frame["transform_matrix"][0][3] = 0.1 * number  # type: ignore[index]
        content: dict[str, object] = {"fl_x": 30.0, "w": 32, "h": 24, "frames": frames}
        changed = change(content)
        text = changed if isinstance(changed, str) else json.dumps(content)
        (folder / "scene" / "transforms.json").write_text(text)

    return spoil


def only(*spoils: Callable[[Path], object]) -> Callable[[Path], object]:
    """All of ``spoils`` in turn."""
    return lambda folder: [spoil(folder) for spoil in spoils]


def huge_png(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def trained(folder: Path) -> Path:
    """A copy of the shipped optimizer."""
    from learn2splat.optim.learned.pretrained import SHIPPED, shipped

    return Path(shutil.copytree(SHIPPED / shipped()[0], folder / "trained"))


def chunk(folder: Path) -> None:
    """A chunk of RE10K with one clip."""
    row = torch.tensor([[0.8, 1.4, 0.5, 0.5, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2.0]] * 2)
    encoded = torch.frombuffer(bytearray(photo(folder).read_bytes()), dtype=torch.uint8).clone()
    torch.save([{"key": "a", "cameras": row, "images": [encoded, encoded]}], folder / "a.torch")


CAMERA, METADATA = "polycam/keyframes/cameras/1.json", "record3d/metadata.json"


def polycam(folder: Path) -> None:
    """A raw export of Polycam with two photos."""
    (folder / CAMERA).parent.mkdir(parents=True)
    (folder / CAMERA).parents[1].joinpath("images").mkdir()
    for number in range(2):
        pose = {f"t_{row}{column}": float(row == column) for row in range(3) for column in range(4)} | {"t_03": number}
        camera = {"fx": 30.0, "fy": 30.0, "cx": 16.0, "cy": 12.0, "width": 32, "height": 24}
        (folder / CAMERA).with_stem(str(number)).write_text(json.dumps(camera | pose))
        shutil.copy(photo(folder, number), (folder / CAMERA).parents[1] / f"images/{number}.png")


def record3d(folder: Path) -> None:
    """An export of Record3D with two photos."""
    (folder / "record3d/rgb").mkdir(parents=True)
    poses = [[0, 0, 0, 1, number, 0, 0] for number in range(2)]
    K = [30.0, 0, 0, 0, 30.0, 0, 16.0, 12.0, 1]
    (folder / METADATA).write_text(json.dumps({"w": 32, "h": 24, "K": K, "poses": poses}))
    for number in range(2):
        shutil.copy(photo(folder, number), folder / f"record3d/rgb/{number}.png")


SCENE = "procedural:seed=3,views=4,width=32"
MADE = ["optimize", "--scene", SCENE, "--optimizer", "adam", "--steps", "2", "--out", "run", *SMALL]
BINARY = [part if part != "scene" else "binary" for part in OPTIMIZE]
EXPORT = ["scene", "export", "a.ply", "a.splat"]
AGAIN = r"copy the file again or export the model anew"
JSON_AGAIN = "export the file anew"
RESUME = ["optimize", "--out", "run", "--resume", "--steps", "3"]


def run_first(folder: Path) -> None:
    """A finished run of two steps, to be resumed."""
    from learn2splat.api import open_session
    from learn2splat.session import Listener

    given = {"scene": SCENE, "steps": 2, "max_size": 32, "max_gaussians": 50, "sh_degree": 0}
    open_session(given | {"optimizer": "adam", "out": folder / "run"}).run(Listener(), lambda: False)


def ply(header: str, body: bytes = b"") -> bytes:
    return f"ply\nformat binary_little_endian 1.0\n{header}end_header\n".encode() + body
