"""The pull that a run is asked for: what ``--uncertainty`` means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learn2splat import checkpoint
from learn2splat.errors import UserError
from learn2splat.evidence import predicted_proximal
from learn2splat.optim.learned.pretrained import INITIALISER, UNCERTAINTY, load_pretrained, shipped
from learn2splat.predict import saved
from learn2splat.predict.base import Prediction
from learn2splat.predict.kind import PREDICT, PredictionKind
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.predict.views import predicted
from learn2splat.proximal import Proximal
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from learn2splat.start import load_initialiser

OFF = "off"


def chosen_proximal(
    kind: str, init: str, scene_loss: SceneLoss, initial: GaussianScene, train: Sequence[int]
) -> Proximal | None:
    """The pull towards ``initial``, or None for "off".

    Args:
        kind: "off"; "predict": what the initialiser of ``init`` says, or the head that ships with it; the folder of a
            trained head, the name of a shipped one, or the folder of a prediction.
        init: how the initial scene was made.
        scene_loss: photos, renderer and loss of the run.
        initial: where it starts, N Gaussians.
        train: views that are optimised on.

    Raises:
        UserError: there is no such folder, or no precision that belongs to ``initial``.
    """
    if kind == OFF:
        return None
    if kind == PREDICT:
        asked = PredictionKind.parse(init)
        if asked is None:
            raise UserError("uncertainty=predict needs --init predict[:FOLDER]; else give the folder of a trained head")
        if asked.initialiser in ("", *shipped(INITIALISER)):
            return _by_head(f"{asked.initialiser or shipped(INITIALISER)[0]}-{UNCERTAINTY}", scene_loss, initial, train)
        if asked.is_refined:
            raise UserError(f"init={init}: what is refined has no uncertainty yet; give the folder of a trained head")
        return _of(predicted(scene_loss.data, train, load_initialiser(asked.initialiser)), initial, init)
    path = Path(kind)
    if path.is_dir() and checkpoint.kind_of(path) == saved.KIND:
        return _of(saved.SavedPrediction(path).prediction, initial, kind)
    return _by_head(kind, scene_loss, initial, train)


def _by_head(name: str, scene_loss: SceneLoss, initial: GaussianScene, train: Sequence[int]) -> Proximal:
    """The pull that a head predicts from what the views show of ``initial``."""
    head = load_pretrained(name, UNCERTAINTY)
    assert isinstance(head, UncertaintyHead)
    return predicted_proximal(head.to(scene_loss.device), scene_loss, initial, train)


def _of(prediction: Prediction, initial: GaussianScene, where: str) -> Proximal:
    """The pull that ``prediction`` holds, in the degree of harmonics of ``initial``; new harmonics are not pulled."""
    if prediction.precision is None:
        remedy = "train a head with `l2s meta-train experiment=implicit` and give its folder as --uncertainty"
        raise UserError(f"{where}: it predicts no uncertainty; {remedy}")
    if len(prediction.precision) != len(initial):
        counts = f"{len(prediction.precision)} Gaussians, the run starts with {len(initial)}"
        raise UserError(f"{where}: its uncertainty is of {counts}; leave out --max-gaussians")
    precision = prediction.precision.with_sh_degree(initial.sh_degree)
    return Proximal(initial, precision.to(initial.means.device, initial.means.dtype))
