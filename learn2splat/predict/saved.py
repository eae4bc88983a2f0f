"""Predictions as folders, and the initialiser that reads one: how the output of any other model is used."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from learn2splat import checkpoint
from learn2splat.cameras import Cameras
from learn2splat.predict.base import Prediction
from learn2splat.scene.gaussians import GaussianScene

KIND = "prediction"


def save_prediction(prediction: Prediction, folder: Path) -> None:
    """Write ``prediction``, whole or not at all; a folder that exists is replaced."""
    tensors = {f"scene/{name}": tensor for name, tensor in prediction.scene.items()}
    if prediction.features is not None:
        tensors["features"] = prediction.features
    if prediction.precision is not None:
        tensors |= {f"precision/{name}": tensor for name, tensor in prediction.precision.items()}
    checkpoint.save(folder, KIND, tensors, {})


class SavedPrediction:
    """An `Initialiser` that gives what was saved, whatever photos it is shown: they must be those it was made from.

    Args:
        folder: that `save_prediction` wrote.

    Raises:
        BadCheckpointError: it holds no prediction, or a damaged one.
    """

    long_side: int | None = None

    def __init__(self, folder: Path) -> None:
        tensors, _ = checkpoint.load(folder, KIND)

        def scene(prefix: str) -> GaussianScene | None:
            found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            return GaussianScene(**found) if found else None

        try:
            predicted = scene("scene/")
            if predicted is None:
                raise ValueError("it lacks scene/")
            if not predicted.is_finite():
                raise ValueError("its scene is not finite")
            self.prediction = Prediction(predicted, tensors.get("features"), scene("precision/"))
        except (TypeError, ValueError) as error:
            raise checkpoint.BadCheckpointError(f"{folder}: holds no usable prediction ({error})") from error

    def __call__(self, images: Tensor, cameras: Cameras) -> Prediction:
        return self.prediction
