"""Faulty files of ``faults.py`` that other parts of the commands read: trainings, weights, masks, initial scenes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fault_cases import MADE, case, cut, filled, only, photo, run_first
from PIL import Image

# ---- trainings

TRAIN = ["meta-train", "--out", "run", "--quiet", "data.procedural=1", "data.views=8", "data.width=32"]
TRAIN += ["validation.procedural=1", "validation.views=8", "validation.width=32", "validation.settings=[dense]"]
TRAIN += ["validation.steps=[2]", "train.samples=1", "estimator.settings.longest_rollout=2"]


def train_first(folder: Path) -> None:
    """A training of two meta-steps, to be resumed."""
    from learn2splat.cli import cli

    here = Path.cwd()
    os.chdir(folder)
    try:
        cli.main([*TRAIN, "train.meta_steps=2"], prog_name="l2s", standalone_mode=False)
    finally:
        os.chdir(here)


def spoil_entries(folder: Path) -> None:
    entries = sorted((folder / "run" / "buffer-0").glob("*.h5"))
    if not entries:
        raise RuntimeError("the training has left no entry to spoil")
    for path in entries:
        path.write_bytes(path.read_bytes()[:500])


case(
    "truncated entries of a buffer of scenes",
    0,
    "",
    only(train_first, spoil_entries),
    [*TRAIN, "train.meta_steps=4"],
)
case(
    "garbage checkpoint of a training",
    2,
    r"checkpoint-0.*start anew",
    only(train_first, filled("run/checkpoint-0/manifest.json")),
    [*TRAIN, "train.meta_steps=4"],
)

# ---- weights and initial scenes

LPIPS = [*MADE, "lpips=weights.safetensors"]
case("missing weights of LPIPS", 0, r"no such file|^$", command=LPIPS)
case("garbage weights of LPIPS", 2, r"not the weights of LPIPS", filled("weights.safetensors"), LPIPS)


def other_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, folder / "weights.safetensors")


case("weights of something else as those of LPIPS", 2, r"not the weights of LPIPS.*missing", other_weights, LPIPS)

FROM_PLY = [*MADE, "--init", "ply:a.ply"]
case("garbage PLY to start from", 2, r"a\.ply.*no PLY header.*export", filled("a.ply"), FROM_PLY)
case("missing PLY to start from", 2, r"a\.ply.*no such file", command=FROM_PLY)


def predict_first(folder: Path) -> None:
    """A saved prediction of the scene."""
    from learn2splat.predict.base import Prediction
    from learn2splat.predict.saved import save_prediction
    from learn2splat.scene.ply import read_ply

    run_first(folder)
    save_prediction(Prediction(read_ply(folder / "run" / "point_cloud.ply")), folder / "said")


PREDICTED = [part if part != "run" else "other" for part in MADE] + ["--init", "predict:said"]
case("garbage prediction", 2, r"said.*damaged", only(predict_first, filled("said/tensors.safetensors")), PREDICTED)
case("garbage manifest of a prediction", 2, r"said", only(predict_first, filled("said/manifest.json")), PREDICTED)

# ---- masks


def masked(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A mask that hides nothing for one photo, with something changed."""

    def spoil(folder: Path) -> None:
        path = folder / "scene" / "masks" / f"{photo(folder).name}.png"
        path.parent.mkdir()
        Image.fromarray(np.full((24, 32), 255, np.uint8)).save(path)
        change(path)

    return spoil


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


case("truncated mask", 2, r"mask.*cannot be decoded.*restore", masked(shorten))
case("garbage mask", 2, r"mask.*cannot be decoded.*restore", masked(lambda path: path.write_bytes(b"junk" * 99)))
small = Image.fromarray(np.full((12, 16), 255, np.uint8))
case("mask of another size", 2, r"its mask.*16x12.*one size", masked(small.save))
black = Image.fromarray(np.zeros((24, 32), np.uint8))
case("mask that hides the whole photo", 2, r"hides all of.*invert it", masked(black.save))

# ---- folders of photos, runs to look at

case(
    "a folder without photos to find poses for",
    2,
    r"notes holds 0 photos.*3 are needed",
    lambda folder: ((folder / "notes").mkdir(), (folder / "notes" / "a.txt").write_text("no photo")),
    ["scene", "from-photos", "notes", "made"],
)
PLY, CONFIG = "run/point_cloud.ply", "run/config.yaml"
for name, command in (
    ("eval", ["eval", "run"]),
    ("render", ["render", "run", "--out", "film"]),
    ("view", ["view", "run"]),
):
    case(f"{name} of a run with a truncated PLY", 2, r"point_cloud\.ply.*export", only(run_first, cut(PLY)), command)
    case(f"{name} of a run with a garbage config.yaml", 2, r"config\.yaml", only(run_first, filled(CONFIG)), command)
