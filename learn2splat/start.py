"""Where an optimisation starts, an initialiser's prediction included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from learn2splat import checkpoint
from learn2splat.data.base import SceneData
from learn2splat.errors import UserError
from learn2splat.optim.learned.pretrained import INITIALISER, SHIPPED, load_pretrained, shipped
from learn2splat.predict import saved
from learn2splat.predict.base import Initialiser, Prediction
from learn2splat.predict.views import predicted
from learn2splat.scene.initialise import initial_scene, kept_rows

PREDICT = "predict"


def start_prediction(
    data: SceneData,
    train: Sequence[int],
    kind: str = "auto",
    *,
    sh_degree: int = 3,
    random_count: int = 10_000,
    max_gaussians: int | None = None,
    seed: int = 0,
) -> Prediction:
    """`initial_scene`, with "predict" and "predict:FOLDER" among the kinds (see `load_initialiser`), and what is known
    about its Gaussians."""
    name, _, folder = kind.partition(":")
    if name != PREDICT:
        scene = initial_scene(
            data, train, kind, sh_degree=sh_degree, random_count=random_count, max_gaussians=max_gaussians, seed=seed
        )
        return Prediction(scene)
    found = predicted(data, train, load_initialiser(folder))
    rows = kept_rows(len(found.scene), max_gaussians, torch.Generator().manual_seed(seed))
    return replace(found.take(rows), scene=found.scene.take(rows).with_sh_degree(sh_degree), precision=None)


def load_initialiser(name: str) -> Initialiser:
    """A trained initialiser, or one that gives a saved prediction.

    Args:
        name: a folder, the name of a shipped one, or empty for the one that ships.

    Raises:
        UserError: there is none.
    """
    if not name and not shipped(INITIALISER):
        raise UserError("no trained initialiser is installed: `make train-predict`, then --init predict:FOLDER")
    name = name or shipped(INITIALISER)[0]
    folder = SHIPPED / name if (SHIPPED / name).is_dir() else Path(name)
    if folder.is_dir() and checkpoint.kind_of(folder) == saved.KIND:
        return saved.SavedPrediction(folder)
    loaded: Initialiser = load_pretrained(name, INITIALISER)
    return loaded
