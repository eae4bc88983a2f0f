"""The pull of every parameter towards where it was: (theta - anchor)^T diag(precision) (theta - anchor) / 2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.optim.base import QuadraticModel
from learn2splat.pcg import dot
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix


@dataclass(frozen=True)
class Proximal:
    """The term that Diff3R (arXiv 2604.01030) adds to the loss on context views.

    Args:
        anchor: N Gaussians, where nothing pulls.
        precision: weights of 0 or more in the shapes of ``anchor`` (Lambda), in units of the loss per squared unit of
            the parameter.

    Raises:
        ValueError: the two differ in shape, or a weight is negative or not finite.
    """

    anchor: GaussianScene
    precision: GaussianScene

    def __post_init__(self) -> None:
        for name, weights in self.precision.items():
            expected = getattr(self.anchor, name).shape
            if weights.shape != expected:
                raise ValueError(f"precision.{name} has shape {tuple(weights.shape)}, expected {tuple(expected)}")
            if not bool((weights >= 0).all()) or not bool(weights.isfinite().all()):
                raise ValueError(f"precision.{name} holds what is negative or not finite")

    def value(self, scene: GaussianScene) -> float:
        """The term at ``scene``."""
        change = as_matrix(scene.map(torch.sub, self.anchor))
        return 0.5 * dot(change, as_matrix(self.precision) * change)

    def gradient(self, scene: GaussianScene) -> GaussianScene:
        """precision x (scene - anchor)."""
        return scene.map(lambda at, anchor, weights: weights * (at - anchor), self.anchor, self.precision)


class ProximalModel:
    """The `QuadraticModel` of a loss and a `Proximal` term, whose part is exact.

    Args:
        model: of the loss around ``scene``.
        proximal: the term.
        scene: where the model holds.
    """

    def __init__(self, model: QuadraticModel, proximal: Proximal, scene: GaussianScene) -> None:
        self._model, self._proximal, self._scene = model, proximal, scene
        self.value = model.value + proximal.value(scene)
        self._pull = proximal.gradient(scene)

    @property
    def gradient(self) -> GaussianScene:
        return self._model.gradient.map(torch.add, self._pull)

    def sampled(self, share: float, generator: torch.Generator) -> ProximalModel:
        return ProximalModel(self._model.sampled(share, generator), self._proximal, self._scene)

    def product(self, direction: GaussianScene) -> GaussianScene:
        pulled = direction.map(torch.mul, self._proximal.precision)
        return self._model.product(direction).map(torch.add, pulled)

    def diagonal(self) -> GaussianScene:
        return self._model.diagonal().map(torch.add, self._proximal.precision)

    def blocks(self) -> tuple[GaussianScene, Tensor]:
        diagonal, blocks = self._model.blocks()
        side = blocks.shape[-1]
        added = torch.diag_embed(as_matrix(self._proximal.precision)[:, :side])
        return diagonal.map(torch.add, self._proximal.precision), blocks + added

    def value_at(self, scene: GaussianScene) -> float:
        return self._model.value_at(scene) + self._proximal.value(scene)


def pulled(model: QuadraticModel | None, proximal: Proximal | None, scene: GaussianScene) -> QuadraticModel | None:
    """``model`` with the term of ``proximal`` at ``scene``, where there are both."""
    return model if model is None or proximal is None else ProximalModel(model, proximal, scene)
