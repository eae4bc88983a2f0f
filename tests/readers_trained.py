"""Readers of what was trained or predicted, with files that they accept: more of `readers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from learn2splat import checkpoint
from learn2splat.config import build
from learn2splat.data.base import PointCloud
from learn2splat.eval.lpips import ALEXNET, Lpips
from learn2splat.meta.settings import TrainSettings
from learn2splat.meta.train import MetaTrainer
from learn2splat.optim.learned.pretrained import INITIALISER, UNCERTAINTY, load_pretrained, save_pretrained
from learn2splat.predict.base import Prediction
from learn2splat.predict.saved import SavedPrediction, save_prediction
from learn2splat.scene.initialise import from_points
from tests.fuzzing import Prey, finite, of_files


def lpips_weights(folder: Path) -> Prey:
    """Of AlexNet's layers with one or two channels; what is accepted is used."""
    weights = {f"scaling_layer.{name}": torch.ones(1, 3, 1, 1) for name in ("shift", "scale")}
    inner = 3
    for index, (number,) in enumerate(ALEXNET.slices):
        outer = 1 + index % 2
        weights[f"net.slice{index + 1}.{number}.weight"] = torch.ones(outer, inner, 3, 3)
        weights[f"net.slice{index + 1}.{number}.bias"] = torch.ones(outer)
        weights[f"lin{index}.model.1.weight"] = torch.ones(1, outer, 1, 1)
        inner = outer
    path, picture = folder / "a.safetensors", torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(0))
    save_file(weights, path)
    return of_files([path.read_bytes()], path, lambda path: Lpips.load(path)(picture, 1 - picture))


def resealed(folder: Path, read: Callable[[Path], object]) -> Prey:
    """The tensors of the checkpoint in ``folder``, whose checksum fits, so that what reads them is reached."""
    manifest, path = folder / checkpoint.MANIFEST, folder / checkpoint.TENSORS
    about = json.loads(manifest.read_text())

    def check(path: Path) -> None:
        try:
            found = load_file(path)
        except Exception:  # what `optimizer_tensors` is for
            found = {}
        listed = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in found.items()}
        manifest.write_text(json.dumps(about | {"sha256": checkpoint._digest(path), "tensors": listed}))
        read(path.parent)

    return of_files([path.read_bytes()], path, check)


def prediction(folder: Path) -> Prey:
    scene = from_points(PointCloud(torch.rand(4, 3), torch.rand(4, 3)), 1)
    save_prediction(Prediction(scene, torch.zeros(len(scene), 2), scene.map(torch.ones_like)), folder / "a")

    def read(saved: Path) -> None:
        found = SavedPrediction(saved).prediction
        finite(found.scene.is_finite())
        found.scene.with_sh_degree(0)

    return resealed(folder / "a", read)


def trained(folder: Path, architecture: dict[str, Any], kind: str) -> Prey:
    """The manifest of a trained network."""
    save_pretrained(build(OmegaConf.create(architecture)), architecture, folder / "a", {}, kind)
    path = folder / "a" / checkpoint.MANIFEST
    return of_files([path.read_bytes()], path, lambda path: load_pretrained(str(path.parent), kind))


def initialiser(folder: Path) -> Prey:
    name = "learn2splat.predict.compact.CompactInitialiser"
    return trained(folder, {"_target_": name, "width": 8}, INITIALISER)


def uncertainty(folder: Path) -> Prey:
    return trained(folder, {"_target_": "learn2splat.predict.uncertainty.UncertaintyHead", "width": 4}, UNCERTAINTY)


class NoEstimator:
    """Stands in for the estimator of a meta-training that takes no meta-step."""

    def open(self, folder: Path, entries: list[int] | None) -> None: ...

    def commit(self) -> None: ...

    def entries(self) -> list[int]:
        return [3]


def meta_training(folder: Path) -> Prey:
    """The manifest of a meta-training's checkpoint."""

    def trainer() -> MetaTrainer[torch.nn.Linear]:
        return MetaTrainer(torch.nn.Linear(2, 1), NoEstimator(), TrainSettings(), folder, lambda trained: 0.0)

    first = trainer()
    first.optimizer(torch.ones(2)).backward()
    first.adamw.step()
    first.progress.history = [{"meta_step": 0, "score": 20.0, "seconds_validation": 1.0}]
    first.save()
    path = folder / "checkpoint-0" / checkpoint.MANIFEST
    return of_files([path.read_bytes()], path, lambda path: trainer())


TRAINED: dict[str, Callable[[Path], Prey]] = {
    "lpips weights": lpips_weights,
    "prediction": prediction,
    "initialiser": initialiser,
    "uncertainty": uncertainty,
    "meta-training": meta_training,
}
"""Name -> what makes its prey in a folder."""
