"""Quadratic models of image losses: touch the loss with its slope, are linear and symmetric."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat.losses import PhotometricLoss
from learn2splat.residuals import LEAST_DIFFERENCE, Residuals, RootPhotometric, SquaredError, _SimilarityDerivative


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, target, change = (torch.rand(2, 19, 23, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    return image, target, change - 0.5


@pytest.mark.parametrize("residuals", [SquaredError(), RootPhotometric(PhotometricLoss(0.2))])
def test_the_model_has_the_value_and_the_slope_of_its_loss(residuals: Residuals) -> None:
    image, target, change = pictures()
    model, step = residuals.model(image, target), 1e-6
    assert model.value == pytest.approx(residuals.value(image, target), rel=1e-12)
    slope = (residuals.value(image + step * change, target) - residuals.value(image - step * change, target)) / 2 / step
    assert float((model.gradient * change).sum()) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("residuals", [SquaredError(), RootPhotometric(PhotometricLoss(0.2))])
def test_the_curvature_is_symmetric_and_positive(residuals: Residuals) -> None:
    image, target, change = pictures()
    model, other = residuals.model(image, target), change.flip(1).roll(3, dims=2)
    one, two = (model.product(change) * other).sum(), (change * model.product(other)).sum()
    assert float(one) == pytest.approx(float(two), rel=1e-10)
    assert float((model.product(change) * change).sum()) >= float((model.weights * change.square()).sum()) * (1 - 1e-12)


def test_the_squared_error_is_its_own_model() -> None:
    image, target, change = pictures()
    model = SquaredError().model(image, target)
    expected = model.value + float((model.gradient * change + 0.5 * change * model.product(change)).sum())
    assert SquaredError().value(image + change, target) == pytest.approx(expected, rel=1e-12)


def test_the_model_of_absolute_differences_lies_above_them_and_has_its_minimum_at_the_target() -> None:
    image, target, change = pictures()
    residuals = RootPhotometric(PhotometricLoss(0.0))
    model = residuals.model(image, target)
    above = model.value + float((model.gradient * change + 0.5 * change * model.product(change)).sum())
    assert residuals.value(image + change, target) <= above
    far = (image - target).abs() > LEAST_DIFFERENCE
    torch.testing.assert_close((-model.gradient / model.weights)[far], (target - image)[far])


def test_the_similarity_map_is_differentiated_as_autograd_does() -> None:
    image, target, change = pictures()
    derivative = _SimilarityDerivative(image, target)
    step = 1e-6
    ahead, behind = (_SimilarityDerivative(image + h * change, target).map for h in (step, -step))
    torch.testing.assert_close(derivative.push_forward(change), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)
    cotangent = torch.randn(derivative.map.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pushed, pulled = (
        (derivative.push_forward(change) * cotangent).sum(),
        (derivative.pull_back(cotangent) * change).sum(),
    )
    assert float(pushed) == pytest.approx(float(pulled), rel=1e-10)
