"""Peak memory of a run on many photos, with and without room for all of them.

    python scripts/photo_memory.py --photos 1000 --width 640 --max-memory 1200

The capture is made of a few procedural photos, each many times over, so that it is ready in seconds. Every photo is
decoded; the table says what all of them take and what the process took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from learn2splat.data.procedural.source import make_scene
from learn2splat.data.procedural.spec import ProceduralSpec

DIFFERENT = 8
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
"""transforms.json has the cameras of OpenGL."""


def capture(folder: Path, count: int, width: int) -> float:
    """Write ``count`` JPEG files and ``transforms.json``; MiB that the decoded photos take."""
    scene = make_scene(ProceduralSpec(seed=3, views=DIFFERENT, width=width)).data
    frames, total = [], 0
    for number in range(count):
        view = number % DIFFERENT
        name = f"{number:05d}.jpg"
        Image.fromarray(scene.photos[view].numpy()).save(folder / name, quality=90)
        total += scene.photos[view].nbytes
        pose = np.linalg.inv(scene.cameras.cam_from_world[view].double().numpy()) @ FLIP
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    K = scene.cameras.K[0].tolist()
    lens = {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2]}
    size = {"w": scene.photos[0].shape[1], "h": scene.photos[0].shape[0]}
    (folder / "transforms.json").write_text(json.dumps({**lens, **size, "frames": frames}))
    return total / 2**20


def peak(scene: Path, out: Path, max_memory: int | None) -> tuple[float, float]:
    """Peak resident memory in MiB of a short run, and its seconds in all."""
    command = [sys.executable, "-m", "learn2splat.cli", "optimize", "--scene", str(scene), "--out", str(out), "--quiet"]
    command += ["--steps", "20", "--init", "random", "--optimizer", "adam", "--eval-at", "20", "--test-every", "500"]
    command += ["init_gaussians=2000", *([] if max_memory is None else ["--max-memory", str(max_memory)])]
    started = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads((out / "summary.json").read_text())["peak_memory_mb"], time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--width", type=int, default=640, help="in pixels")
    parser.add_argument("--max-memory", type=int, default=1200, help="of the second run, in MiB")
    given = parser.parse_args()
    print("| photos | all decoded (MiB) | --max-memory | peak (MiB) | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        scene = Path(temporary) / "scene"
        scene.mkdir()
        pixels = capture(scene, given.photos, given.width)
        for limit in (None, given.max_memory):
            found, seconds = peak(scene, Path(temporary) / f"run-{limit}", limit)
            print(f"| {given.photos:,} | {pixels:,.0f} | {limit or '-'} | {found:,.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
