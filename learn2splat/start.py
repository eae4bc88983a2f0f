"""Where an optimisation starts, an initialiser's prediction included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from learn2splat import checkpoint
from learn2splat.data.base import SceneData
from learn2splat.data.views import RandomViews
from learn2splat.errors import UserError
from learn2splat.optim.base import Need, SceneOptimizer, to_device
from learn2splat.optim.learned.pretrained import INITIALISER, SHIPPED, load_pretrained, shipped
from learn2splat.predict import saved
from learn2splat.predict.base import Initialiser, Prediction
from learn2splat.predict.kind import PREDICT, REFINE, PredictionKind
from learn2splat.predict.views import predicted, shown
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState
from learn2splat.scene.initialise import initial_scene, kept_rows
from learn2splat.scene_loss import SceneLoss

UPDATER = "resplat"
"""The updater that refines predictions unless another is named."""
ITERATIONS = 4
"""Updates of a refinement: as many as updaters are trained for."""
REFINED_WORTH = 30
"""Updates of an optimizer that a refined prediction is worth: the first, longest ones would undo it."""


def start_prediction(
    data: SceneData,
    train: Sequence[int],
    kind: str = "auto",
    *,
    sh_degree: int = 3,
    random_count: int = 10_000,
    max_gaussians: int | None = None,
    seed: int = 0,
    scene_loss: SceneLoss | None = None,
) -> Prediction:
    """`initial_scene`, with predictions among the kinds, and what is known about its Gaussians.

    The kinds of predictions are "predict", "predict:FOLDER" (see `load_initialiser`) and either with "+refine" or
    "+refine:FOLDER" behind it: `refined` by the updater that ships, or by another one.

    Args:
        data, train, kind, sh_degree, random_count, max_gaussians, seed: as for `initial_scene`.
        scene_loss: of ``data``; what a refinement goes by.

    Raises:
        UserError: there is no such initialiser or updater, or the photos do not suit it.
    """
    asked = PredictionKind.parse(kind)
    if asked is None:
        if kind.startswith(PREDICT):
            raise UserError(f"init={kind}: give {PREDICT}[:FOLDER][{REFINE}[:FOLDER]]")
        if kind.endswith(REFINE):
            raise UserError(f"init={kind}: only predictions can be refined; give {PREDICT}{REFINE}")
        scene = initial_scene(
            data, train, kind, sh_degree=sh_degree, random_count=random_count, max_gaussians=max_gaussians, seed=seed
        )
        return Prediction(scene)
    initialiser = load_initialiser(asked.initialiser)
    data, chosen = shown(data, train, initialiser.long_side)
    found = predicted(data, chosen, initialiser)
    if asked.is_refined:
        if scene_loss is None:
            raise ValueError("a refinement needs a scene_loss")
        on = SceneLoss(data, scene_loss.renderer, scene_loss.loss, scene_loss.background, scene_loss.device)
        found = refined(found, on, chosen, load_updater(asked.updater))
    rows = kept_rows(len(found.scene), max_gaussians, torch.Generator().manual_seed(seed))
    return replace(found.take(rows), scene=found.scene.take(rows).with_sh_degree(sh_degree), precision=None)


def head_start(kind: str) -> int:
    """How many updates an initial scene of this ``kind`` is worth."""
    asked = PredictionKind.parse(kind)
    return REFINED_WORTH if asked is not None and asked.is_refined else 0


def refined(found: Prediction, on: SceneLoss, views: Sequence[int], updater: SceneOptimizer) -> Prediction:
    """What ``updater`` makes of ``found`` in `ITERATIONS` updates (ReSplat, arXiv 2510.08575).

    Args:
        found: a prediction.
        on: photos and renderer.
        views: which photos to go by, all at once.
        updater: starts from the features of ``found``.

    Raises:
        UserError: it does not know these features, or what it makes of them is not finite.
        MemoryError: there is too little memory for it.
    """
    scene = found.scene.to(on.device)
    to_device(updater, on.device)
    features = None if found.features is None else found.features.to(on.device)
    sampler = RandomViews(on.cameras, views, len(views), seed=0)
    state = RolloutState.start(scene, updater, features=features)
    rollout = Rollout(on, views, updater, sampler, state, horizon=ITERATIONS)
    for _ in rollout.run(ITERATIONS):
        pass
    outcome = rollout.outcome()
    if outcome.kind is OutcomeKind.OUT_OF_MEMORY:
        raise MemoryError(outcome.message)
    if outcome.kind is not OutcomeKind.OK:
        raise UserError(f"{on.data.name}: the prediction cannot be refined ({outcome.message}); leave out {REFINE}")
    return Prediction(rollout.state.scene.to(found.scene.means.device))


def load_updater(name: str) -> SceneOptimizer:
    """A trained updater: a folder, the name of a shipped one, or empty for `UPDATER`.

    Raises:
        UserError: there is none, or it is another kind of optimizer.
    """
    if not name and UPDATER not in shipped():
        raise UserError(f"no trained updater is installed: `make train-resplat`, then --init predict{REFINE}:FOLDER")
    found: SceneOptimizer = load_pretrained(name or UPDATER)  # type: ignore[assignment]
    if Need.RENDERINGS not in found.needs:
        raise UserError(
            f"{REFINE}:{name}: that optimizer is no updater of predictions; `make train-resplat` trains one"
        )
    return found


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
    loaded: Initialiser = load_pretrained(name, INITIALISER)  # type: ignore[assignment]
    return loaded
