"""Faulty scenes of ``faults.py``, the commands that meet them and how those have to end."""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
from fault_cases import (
    AGAIN,
    BINARY,
    CAMERA,
    JSON_AGAIN,
    METADATA,
    OPTIMIZE,
    SPARSE,
    case,
    chunk,
    cut,
    edited,
    filled,
    huge_png,
    only,
    photo,
    polycam,
    record3d,
    renamed,
    resaved,
    transforms,
    word,
)
from PIL import Image

# ---- COLMAP

for stem in ("cameras", "images", "points3D"):
    case(f"truncated {stem}.bin", 2, rf"{stem}\.bin.*truncated.*{AGAIN}", cut(f"binary/sparse/0/{stem}.bin"), BINARY)
    case(f"garbage {stem}.bin", 2, rf"{stem}\.bin.*{AGAIN}", filled(f"binary/sparse/0/{stem}.bin"), BINARY)
    huge = filled(f"binary/sparse/0/{stem}.bin", struct.pack("<Q", 2**60) + bytes(64))
    case(f"{stem}.bin that announces 2^60 records", 2, rf"{stem}\.bin announces 1152921504606846976", huge, BINARY)
    case(f"garbage {stem}.txt", 2, rf"{stem}\.txt.*{AGAIN}", filled(str(SPARSE / f"{stem}.txt")))
case("truncated cameras.txt", 2, rf"cameras\.txt.*{AGAIN}", cut(str(SPARSE / "cameras.txt"), 0.75))
case(
    "images.txt that ends within a line",
    2,
    rf"images\.txt, line 3: expected IMAGE_ID.*{AGAIN}",
    edited(str(SPARSE / "images.txt"), lambda lines: [*lines[:2], lines[2][:20]]),
)
case(
    "a folder of a model without images",
    2,
    r"neither images\.bin nor images\.txt",
    lambda f: (f / SPARSE / "images.txt").unlink(),
)
IMAGES = str(SPARSE / "images.txt")
case("NaN pose", 2, r"no rigid transform.*register", edited(IMAGES, lambda x: [word(x[0], 5, "nan"), *x[1:]]))
case("infinite pose", 2, r"no rigid transform", edited(IMAGES, lambda x: [word(x[0], 1, "inf"), *x[1:]]))
zero = edited(IMAGES, lambda x: [word(word(word(word(x[0], 1, "0"), 2, "0"), 3, "0"), 4, "0"), *x[1:]])
case("degenerate pose: a rotation of zero", 2, r"no rigid transform", zero)


def in_one_place(lines: list[str]) -> list[str]:
    return [
        text
        for line in lines[::2]
        if line
        for text in (f"{line.split()[0]} 1 0 0 0 0 0 0 {' '.join(line.split()[8:])}", "")
    ]


def looking_away(lines: list[str]) -> list[str]:
    """All cameras behind the points, looking on."""
    return [
        text
        for line in lines[::2]
        if line
        for text in (f"{line.split()[0]} 1 0 0 0 0 0 -1e4 {' '.join(line.split()[8:])}", "")
    ]


case("degenerate poses: all cameras in one place", 0, r"taken from one place: move", edited(IMAGES, in_one_place))
case("views that see nothing", 0, r"100 % of the points lie behind.*convention", edited(IMAGES, looking_away))
case("one view", 0, "", edited(IMAGES, lambda x: x[:2]))
case(
    "one view, and three asked for", 2, r"sparse:3", edited(IMAGES, lambda x: x[:2]), [*OPTIMIZE, "--views", "sparse:3"]
)
case("no view", 2, r"no registered image.*export", edited(IMAGES, lambda x: []))
POINTS = str(SPARSE / "points3D.txt")
case("no points", 0, r"no points: a run starts from random points", edited(POINTS, lambda x: []))
case("no points3D file", 0, r"no points3D file", lambda f: (f / POINTS).unlink())
case("NaN points", 0, r"not finite and were left out", edited(POINTS, lambda x: [word(x[0], 1, "nan"), *x[1:]]))
case(
    "duplicate names",
    2,
    r"two images are called",
    edited(IMAGES, lambda x: [*x[:2], word(x[2], 9, x[0].split()[9]), *x[3:]]),
)
case(
    "a name that leaves the folder",
    2,
    r"not a path inside",
    edited(IMAGES, lambda x: [word(x[0], 9, "../../x.png"), *x[1:]]),
)
case(
    "camera of zero size",
    2,
    r"0x24 pixels is impossible",
    edited(str(SPARSE / "cameras.txt"), lambda x: [word(x[0], 2, "0"), *x[1:]]),
)
case(
    "camera without a focal length",
    2,
    r"focal length",
    edited(str(SPARSE / "cameras.txt"), lambda x: [word(x[0], 4, "0"), *x[1:]]),
)

# ---- folders and names

case(
    "missing scene", 2, r"does not exist: check the spelling", command=[p if p != "scene" else "gone" for p in OPTIMIZE]
)
case(
    "empty folder",
    2,
    r"empty folder: give the folder",
    lambda f: (f / "empty").mkdir(),
    [p if p != "scene" else "empty" for p in OPTIMIZE],
)
case("missing folder of photos", 2, r"photos.*was found.*put them into", lambda f: shutil.rmtree(f / "scene/images"))
case("one photo missing", 0, r"1 of 4 registered photos are missing", lambda f: photo(f).unlink())
case(
    "symlink loop as the scene",
    2,
    r"cannot be read|does not exist",
    lambda f: os.symlink("loop", f / "loop"),
    [p if p != "scene" else "loop" for p in OPTIMIZE],
)
case(
    "symlink loop as a photo",
    0,
    r"1 of 4 registered photos are missing",
    lambda f: [(path.unlink(), os.symlink(path.name, path)) for path in [photo(f)]],
)
case("symlink loop below the photos", 0, "", lambda f: os.symlink("..", f / "scene/images/again"))
case("non-ASCII names of photos", 0, "", renamed("Bäume 木 №1.png"))
case(
    "non-ASCII folder",
    0,
    "",
    lambda f: (f / "scene").rename(f / "Fußgänger 木"),
    [p if p != "scene" else "Fußgänger 木" for p in OPTIMIZE],
)
case(
    "name that is not UTF-8 in images.bin",
    2,
    r"not UTF-8",
    lambda f: (f / "binary/sparse/0/images.bin").write_bytes(
        (f / "binary/sparse/0/images.bin").read_bytes().replace(b".png", b"\xff\xfe\xfd\xfc", 1)
    ),
    BINARY,
)

# ---- photos

TURNED = Image.Exif()
TURNED[0x0112] = 6
case(
    "truncated JPEG",
    2,
    r"restore.*cannot be decoded|cannot be decoded.*restore",
    only(
        resaved(Image.fromarray, ".jpg"),
        lambda f: [p.write_bytes(p.read_bytes()[:-300]) for p in (f / "scene/images").glob("*.jpg")],
    ),
)
case(
    "garbage JPEG",
    2,
    r"restore.*cannot be decoded|cannot be decoded.*restore",
    only(
        resaved(Image.fromarray, ".jpg"),
        lambda f: [p.write_bytes(b"\xff\xd8" + b"junk" * 99) for p in (f / "scene/images").glob("*.jpg")],
    ),
)
case(
    "PNG damaged inside",
    2,
    r"restore.*cannot be decoded|cannot be decoded.*restore",
    lambda f: photo(f).write_bytes(photo(f).read_bytes()[:200] + bytes(60) + photo(f).read_bytes()[260:]),
)
case(
    "photo of zero bytes",
    2,
    r"restore.*cannot be decoded|cannot be decoded.*restore",
    lambda f: photo(f).write_bytes(b""),
)
case(
    "photo of zero size",
    2,
    r"restore.*cannot be decoded|cannot be decoded.*restore",
    lambda f: photo(f).write_bytes(huge_png(0, 0)),
)
case(
    "photo that announces 60,000 x 60,000 pixels",
    2,
    r"restore.*cannot be decoded|cannot be decoded.*restore",
    lambda f: photo(f).write_bytes(huge_png(60000, 60000)),
)
case(
    "photo that announces 9,000 x 9,000 pixels",
    2,
    r"restore.*announces 9000x9000 pixels",
    lambda f: photo(f).write_bytes(huge_png(9000, 9000)),
)
case("photo of another shape", 2, r"calibrated at 32x24.*cropped", resaved(lambda x: Image.fromarray(x[:, :20])))
case("photo turned by 90 degrees", 2, r"turned by 90 degrees", resaved(lambda x: Image.fromarray(np.rot90(x).copy())))
case("16-bit grey photo", 0, "", resaved(lambda x: Image.fromarray(x[..., 0].astype(np.uint16) * 257)))
case("grey photo", 0, "", resaved(lambda x: Image.fromarray(x[..., 0])))
case("CMYK photo", 0, "", resaved(lambda x: Image.fromarray(x).convert("CMYK"), ".jpg"))
case("photo with an EXIF rotation", 0, "", resaved(Image.fromarray, ".jpg", exif=TURNED))
case(
    "photo in floating point",
    2,
    r"convert it to 8-bit PNG",
    resaved(lambda x: Image.fromarray(x[..., 0].astype(np.float32)), ".tif"),
)

# ---- transforms.json, chunks

case(
    "truncated transforms.json",
    2,
    rf"transforms\.json.*not JSON.*{JSON_AGAIN}",
    only(transforms(lambda c: None), cut("scene/transforms.json")),
)
case(
    "garbage transforms.json",
    2,
    rf"transforms\.json.*not JSON.*{JSON_AGAIN}",
    only(transforms(lambda c: None), filled("scene/transforms.json")),
)
case("transforms.json nested 100,000 deep", 2, JSON_AGAIN, transforms(lambda c: "[" * 100_000))
case(
    "transforms.json with a NaN pose",
    2,
    rf"not 4x4 finite numbers; {JSON_AGAIN}",
    transforms(lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(0, float("nan"))),
)
case("transforms.json without frames", 2, r"no list 'frames'", transforms(lambda c: c.pop("frames")))
case(
    "transforms.json with a photo twice",
    2,
    r"there twice",
    transforms(lambda c: c["frames"][1].update(file_path=c["frames"][0]["file_path"])),
)
case(
    "transforms.json with photos of zero size", 2, r"0x0 pixels is impossible", transforms(lambda c: c.update(w=0, h=0))
)
CHUNK = [p if p != "scene" else "a.torch" for p in OPTIMIZE]
case("truncated chunk", 2, r"a\.torch is no chunk.*download", only(chunk, cut("a.torch")), CHUNK)
case("garbage chunk", 2, r"a\.torch is no chunk.*download", filled("a.torch"), CHUNK)
POLYCAM = [p if p != "scene" else "polycam" for p in OPTIMIZE]
case("garbage camera of Polycam", 2, rf"1\.json is not JSON.*{JSON_AGAIN}", only(polycam, filled(CAMERA)), POLYCAM)
case(
    "camera of Polycam without a focal length",
    2,
    rf"1\.json: fx is None, not a finite number; {JSON_AGAIN}",
    only(polycam, lambda f: (f / CAMERA).write_text((f / CAMERA).read_text().replace("fx", "f"))),
    POLYCAM,
)
RECORD3D = [p if p != "scene" else "record3d" for p in OPTIMIZE]
case("garbage metadata of Record3D", 2, rf"not JSON.*{JSON_AGAIN}", only(record3d, filled(METADATA)), RECORD3D)
case(
    "Record3D with a photo more than poses",
    2,
    r"has 2 poses for 3 photos",
    only(record3d, lambda f: shutil.copy(f / "record3d/rgb/0.png", f / "record3d/rgb/2.png")),
    RECORD3D,
)
