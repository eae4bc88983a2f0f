"""Losses of images as sums of squared residuals, and their quadratic models, for methods of second order.

Around an image C0 the model of a loss f is f(C0) + g^T d + d^T B d / 2 with d = C - C0, g the gradient of f at C0 and B
positive semidefinite. Images are [V, H, W, 3]; losses are means over pixels and channels of a view, and over views.
A loss may be estimated from some of the pixels: residuals are then weighted by an importance [V, H, W, 1] >= 0 whose
expected value is 1, so that value, slope and curvature are expected to be those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from learn2splat.losses import C1, C2, PhotometricLoss, blur

LEAST_DIFFERENCE = 0.01
"""|d| below which the curvature of an absolute difference grows no further, in units of the image (0..1)."""
LEAST_DISSIMILARITY = 0.01
"""Likewise for 1 - SSIM of a pixel."""


class ImageModel(Protocol):
    """The quadratic model of a loss at one image."""

    @property
    def value(self) -> float:
        """f(C0)."""
        ...

    @property
    def gradient(self) -> Tensor:
        """g, [V, H, W, 3]."""
        ...

    @property
    def weights(self) -> Tensor:
        """[V, H, W, 3]: the part of B that is diagonal."""
        ...

    @property
    def used(self) -> Tensor | None:
        """[V, H, W] bool: the pixels whose change matters; None: all."""
        ...

    def product(self, change: Tensor) -> Tensor:
        """B d."""
        ...


class Residuals(Protocol):
    """A loss of images that has a quadratic model."""

    def model(self, image: Tensor, target: Tensor, importance: Tensor | None = None) -> ImageModel:
        """The model at ``image``."""
        ...

    def value(self, image: Tensor, target: Tensor, importance: Tensor | None = None) -> float:
        """The loss alone."""
        ...


@dataclass(frozen=True)
class DiagonalModel:
    """An `ImageModel` with B = diag(weights)."""

    value: float
    gradient: Tensor
    weights: Tensor
    used: Tensor | None = None

    def product(self, change: Tensor) -> Tensor:
        return self.weights * change


class SquaredError:
    """Half the mean of the squared differences: B is exact."""

    def model(self, image: Tensor, target: Tensor, importance: Tensor | None = None) -> DiagonalModel:
        weights = torch.full_like(image, 1.0 / image.numel())
        if importance is not None:
            weights = importance * weights
        used = None if importance is None else importance[..., 0] > 0
        return DiagonalModel(self.value(image, target, importance), weights * (image - target), weights, used)

    def value(self, image: Tensor, target: Tensor, importance: Tensor | None = None) -> float:
        squares = (image - target).square()
        return 0.5 * float((squares if importance is None else importance * squares).mean(dtype=torch.float64))


class MaskedModel:
    """The `ImageModel` of f(M C), M zero where a mask hides the image: gradient M g and M B M.

    Args:
        model: of f around M C0.
        used: [V, H, W] bool, where M is one.
    """

    def __init__(self, model: ImageModel, used: Tensor) -> None:
        self._model, self._hidden = model, ~used[..., None]
        self.used = used if model.used is None else used & model.used
        self.value, self.gradient = model.value, self._masked(model.gradient)
        self.weights = self._masked(model.weights)

    def product(self, change: Tensor) -> Tensor:
        return self._masked(self._model.product(self._masked(change)))

    def _masked(self, images: Tensor) -> Tensor:
        return images.masked_fill(self._hidden, 0.0)


class RootPhotometric:
    """(1 - w) L1 + w (1 - SSIM) with the residuals sqrt((1 - w) |d|) and sqrt(w (1 - s)) of each pixel and channel.

    3DGS-LM (Höllein et al. 2025) optimises these. B is twice their Gauss-Newton matrix J_r^T J_r x 2: to Gauss-Newton,
    |d| = r^2 with r = sqrt|d| looks like a parabola whose least value lies at -d, twice too far. With the factor the
    L1 part is the parabola that touches |d| from above (iteratively reweighted least squares), (1 - w) / |d| on the
    diagonal; the SSIM part is w S^T diag(1 / (1 - s)) S, S the derivative of the SSIM map s.
    """

    def __init__(self, loss: PhotometricLoss) -> None:
        self._loss = loss

    def value(self, image: Tensor, target: Tensor, importance: Tensor | None = None) -> float:
        if importance is None:
            return self._loss(image, target).loss
        return self.model(image, target, importance).value

    def model(self, image: Tensor, target: Tensor, importance: Tensor | None = None) -> RootPhotometricModel:
        return RootPhotometricModel(self._loss, image, target.to(image), importance)


class RootPhotometricModel:
    """The `ImageModel` of `RootPhotometric`; ``weights`` hold only its L1 part."""

    def __init__(self, loss: PhotometricLoss, image: Tensor, target: Tensor, importance: Tensor | None = None) -> None:
        difference = image - target
        of_pixel = (torch.ones_like(image[..., :1]) if importance is None else importance) / image.numel()
        absolute, unlike = (1 - loss.ssim_weight) * of_pixel, loss.ssim_weight * _planes(of_pixel)
        self.weights = absolute / difference.abs().clamp_min(LEAST_DIFFERENCE)
        self._similar = None if loss.ssim_weight == 0 else _SimilarityDerivative(image, target)
        if self._similar is not None:
            self._curvature = unlike / (1 - self._similar.map).clamp_min(LEAST_DISSIMILARITY)
        if importance is None:
            terms = loss(image, target)
            self.value, self.gradient, self.used = terms.loss, terms.image_gradient, None
            return
        self.value = float((absolute * difference.abs()).sum(dtype=torch.float64))
        self.gradient, self.used = absolute * difference.sign(), importance[..., 0] > 0
        if self._similar is not None:
            self.value += float((unlike * (1 - self._similar.map)).sum(dtype=torch.float64))
            self.gradient = self.gradient - self._similar.pull_back(unlike.expand_as(self._similar.map))
            self.used = blur(_planes(importance))[:, 0] > 0  # the SSIM of a pixel looks at its neighbourhood

    def product(self, change: Tensor) -> Tensor:
        diagonal = self.weights * change
        if self._similar is None:
            return diagonal
        return diagonal + self._similar.pull_back(self._curvature * self._similar.push_forward(change))


class _SimilarityDerivative:
    """The SSIM map s [V, C, H, W] of an image, and its derivative S by the image as a linear map."""

    def __init__(self, image: Tensor, target: Tensor) -> None:
        self._x, self._y = _planes(image), _planes(target)
        x, y = self._x, self._y
        mu_x, mu_y, xx, yy, xy = (blur(part) for part in (x, y, x * x, y * y, x * y))
        a1, a2 = 2 * mu_x * mu_y + C1, 2 * (xy - mu_x * mu_y) + C2
        b1, b2 = mu_x.square() + mu_y.square() + C1, xx - mu_x.square() + yy - mu_y.square() + C2
        self.map = a1 * a2 / (b1 * b2)
        self._by_xx = -self.map / b2
        self._by_xy = 2 * a1 / (b1 * b2)
        by_means = 2 * mu_y * a2 / (b1 * b2) - 2 * mu_x * self.map / b1
        self._by_mu = by_means - 2 * mu_x * self._by_xx - mu_y * self._by_xy

    def push_forward(self, change: Tensor) -> Tensor:
        """S d: [V, C, H, W] for d [V, H, W, C]."""
        d = _planes(change)
        return self._by_mu * blur(d) + 2 * self._by_xx * blur(self._x * d) + self._by_xy * blur(self._y * d)

    def pull_back(self, cotangent: Tensor) -> Tensor:
        """S^T q: [V, H, W, C] for q [V, C, H, W]; the window is symmetric."""
        by_x = blur(self._by_mu * cotangent) + 2 * self._x * blur(self._by_xx * cotangent)
        return (by_x + self._y * blur(self._by_xy * cotangent)).permute(0, 2, 3, 1)


def _planes(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2)
