"""The quadratic model of a loss of a scene on views of a capture: what methods of second order ask for."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import Need
from learn2splat.render.jacobian import TILE, Jacobian
from learn2splat.residuals import ImageModel, MaskedModel, Residuals, RootPhotometric, SquaredError
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss


class SceneModel:
    """The `QuadraticModel` of a scene's loss: value, J^T g, and H = J^T B J of the model g, B of the image loss.

    J is the renderer's, with all decisions as they are at ``scene``.

    Args:
        scene_loss: photos, renderer and background.
        residuals: the loss of images.
        scene: N Gaussians, around which the model holds.
        views: whose mean loss is meant.
        sh_degree: harmonics up to this degree are used; default all.
    """

    def __init__(
        self,
        scene_loss: SceneLoss,
        residuals: Residuals,
        scene: GaussianScene,
        views: Sequence[int],
        sh_degree: int | None = None,
    ) -> None:
        self._loss, self._residuals, self._sh_degree = scene_loss, residuals, sh_degree
        self._scene, self._views = scene, list(views)

    @cached_property
    def _parts(self) -> list[_Part]:
        """Rendered when first asked for: not every step of an optimizer looks at the model."""
        parts = []
        for index, cameras in self._loss.cameras.take(self._views).groups_by_size():
            chosen = [self._views[i] for i in index.tolist()]
            jacobian = self._loss.renderer.jacobian(
                self._scene, cameras, background=self._loss.background, sh_degree=self._sh_degree
            )
            parts.append(self._part(chosen, len(chosen) / len(self._views), jacobian, None))
        return parts

    def _part(self, views: list[int], share: float, jacobian: Jacobian, importance: Tensor | None) -> _Part:
        image = self._loss.masked(jacobian.output.image, views)
        model: ImageModel = self._residuals.model(image, self._loss.photos(views), importance)
        used = self._loss.used(views)
        return _Part(views, share, jacobian, model if used is None else MaskedModel(model, used), importance)

    def sampled(self, share: float, generator: torch.Generator) -> SceneModel:
        if share == 1:
            return self
        other = copy.copy(self)
        vars(other).pop("gradient", None)  # it was this one's
        other._parts = [
            self._part(part.views, part.share, part.jacobian, drawn_tiles(part.jacobian.output.alpha, share, generator))
            for part in self._parts
        ]
        return other

    @property
    def value(self) -> float:
        return sum(part.share * part.model.value for part in self._parts)

    @cached_property
    def gradient(self) -> GaussianScene:
        return self._sum([part.jacobian.pull_back(part.share * part.model.gradient) for part in self._parts])

    def product(self, direction: GaussianScene) -> GaussianScene:
        def of(part: _Part) -> GaussianScene:
            change = part.jacobian.push_forward(direction, part.model.used)
            return part.jacobian.pull_back(part.share * part.model.product(change))

        return self._sum([of(part) for part in self._parts])

    def diagonal(self) -> GaussianScene:
        return self._sum([part.jacobian.diagonal(part.share * part.model.weights) for part in self._parts])

    def blocks(self) -> tuple[GaussianScene, Tensor]:
        parts = [part.jacobian.blocks(part.share * part.model.weights) for part in self._parts]
        return self._sum([diagonal for diagonal, _ in parts]), torch.stack([blocks for _, blocks in parts]).sum(dim=0)

    def value_at(self, scene: GaussianScene) -> float:
        total = 0.0
        for part in self._parts:
            cameras = self._loss.cameras.take(part.views)
            with torch.no_grad():
                image = self._loss.renderer.render(
                    scene, cameras, background=self._loss.background, sh_degree=self._sh_degree
                ).image
            image = self._loss.masked(image, part.views)
            total += part.share * self._residuals.value(image, self._loss.photos(part.views), part.importance)
        return total

    @staticmethod
    def _sum(parts: list[GaussianScene]) -> GaussianScene:
        return parts[0] if len(parts) == 1 else parts[0].map(lambda *terms: sum(terms[1:], terms[0]), *parts[1:])


@dataclass(frozen=True)
class _Part:
    """Views of one size; ``importance`` is None where all pixels count alike."""

    views: list[int]
    share: float
    jacobian: Jacobian
    model: ImageModel
    importance: Tensor | None


def drawn_tiles(like: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """[V, H, W, 1] weights of a random ``share`` of the square tiles of all views, at least one; others weigh nothing.

    Each tile is as likely as any other and its weight the inverse of that: every pixel is expected to weigh 1. Whole
    tiles are drawn because a rasteriser can leave out those without any weight.

    Args:
        like: [V, H, W].
        share: in (0, 1].
        generator: source of all randomness.
    """
    views, height, width = like.shape
    down, across = math.ceil(height / TILE), math.ceil(width / TILE)
    count = views * down * across
    drawn = max(1, round(share * count))
    weights = torch.zeros(count)
    weights[torch.randperm(count, generator=generator)[:drawn]] = count / drawn
    pixels = weights.view(views, down, across).repeat_interleave(TILE, dim=1).repeat_interleave(TILE, dim=2)
    return pixels[:, :height, :width, None].to(like)


def scene_model(
    scene_loss: SceneLoss,
    needs: frozenset[Need],
    scene: GaussianScene,
    views: Sequence[int],
    sh_degree: int | None = None,
) -> SceneModel | None:
    """The model that an optimizer ``needs``, or None when it needs none.

    Raises:
        ValueError: the loss of ``scene_loss`` is none that has the model asked for.
    """
    if Need.SQUARED_ERROR_MODEL in needs:
        return SceneModel(scene_loss, SquaredError(), scene, views, sh_degree)
    if Need.LOSS_MODEL not in needs:
        return None
    if not isinstance(scene_loss.loss, PhotometricLoss):
        raise ValueError(
            f"{type(scene_loss.loss).__name__} has no quadratic model: use loss=photometric, or residuals='squared'"
        )
    return SceneModel(scene_loss, RootPhotometric(scene_loss.loss), scene, views, sh_degree)
