"""The seam of every initialiser, ours or somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.scene.gaussians import GaussianScene


@dataclass(frozen=True)
class Prediction:
    """What an initialiser says about a scene.

    Args:
        scene: N Gaussians, in world units.
        features: [N, C] what the initialiser knows about each Gaussian, or None.
        precision: weights >= 0 of a pull of every parameter towards ``scene`` (the Lambda of Diff3R, arXiv 2604.01030),
            in the shapes of ``scene``, or None.
        log_depths: [V, h, w] natural logarithms of the camera depths of the cells of the photos, for their supervision
            in training, or None.
    """

    scene: GaussianScene
    features: Tensor | None = None
    precision: GaussianScene | None = None
    log_depths: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.scene)
        if self.features is not None and (self.features.ndim != 2 or self.features.shape[0] != count):
            raise ValueError(f"Prediction.features has shape {tuple(self.features.shape)}, expected ({count}, C)")
        if self.precision is not None:
            for name, tensor in self.precision.items():
                expected = getattr(self.scene, name).shape
                if tensor.shape != expected:
                    shapes = f"{tuple(tensor.shape)}, expected {tuple(expected)}"
                    raise ValueError(f"Prediction.precision.{name} has shape {shapes}")

    def take(self, rows: Tensor) -> Prediction:
        """What is said about some of the Gaussians."""
        return Prediction(
            self.scene.take(rows),
            None if self.features is None else self.features[rows],
            None if self.precision is None else self.precision.take(rows),
        )


class Initialiser(Protocol):
    """Predicts Gaussians; any callable of this form may be used, an adapter to another model for example."""

    @property
    def long_side(self) -> int | None:
        """Pixels of the long side that photos are shrunk to before they are shown; None: they stay as they are."""

    def __call__(self, images: Tensor, cameras: Cameras) -> Prediction:
        """Gaussians from posed photos.

        Args:
            images: [V, H, W, 3] in 0..1, V of the number that the initialiser takes.
            cameras: V views of one size.

        Raises:
            ValueError: the number or the sizes of the views do not suit; the message says what does.
        """
        ...
