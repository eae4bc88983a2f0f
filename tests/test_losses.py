"""L1 + SSIM: against the textbook 11 x 11 window and finite differences."""

from __future__ import annotations

import pytest
import torch

from learn2splat.losses import C1, C2, PhotometricLoss, photometric


def pictures(views: int = 2, height: int = 23, width: int = 31) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(views, height, width, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(views, height, width, 3, generator=generator, dtype=torch.float64)
    return image, (image + 0.1 * noise).clamp(0, 1)


def textbook_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean SSIM per view with the full two-dimensional window, as 3DGS computes it."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    row = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = torch.outer(row / row.sum(), row / row.sum())[None, None].expand(3, 1, 11, 11)

    def blurred(planes: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(planes.permute(0, 3, 1, 2), window, padding=5, groups=3)

    mu_x, mu_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mu_x**2, blurred(y * y) - mu_y**2
    cov = blurred(x * y) - mu_x * mu_y
    ratio = (2 * mu_x * mu_y + C1) * (2 * cov + C2) / ((mu_x**2 + mu_y**2 + C1) * (var_x + var_y + C2))
    return ratio.mean(dim=(1, 2, 3))


def test_value_equals_the_textbook() -> None:
    image, target = pictures()
    l1, ssim, _ = photometric(image, target, 0.2)
    torch.testing.assert_close(ssim, textbook_ssim(image, target), rtol=0, atol=1e-14)
    torch.testing.assert_close(l1, (image - target).abs().mean(dim=(1, 2, 3)), rtol=0, atol=1e-15)


def test_gradient_equals_autograd_of_the_textbook() -> None:
    image, target = pictures()
    leaf = image.clone().requires_grad_()
    (0.7 * (leaf - target).abs().mean() + 0.3 * (1 - textbook_ssim(leaf, target).mean())).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(photometric(image, target, 0.3)[2], leaf.grad, rtol=1e-10, atol=1e-15)


def test_equal_images_are_the_minimum() -> None:
    image, _ = pictures()
    l1, ssim, gradient = photometric(image, image.clone(), 0.2)
    assert float(l1.abs().max()) == 0
    torch.testing.assert_close(ssim, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-14)
    assert float(gradient.abs().max()) < 1e-15


def test_float32_on_the_cpu_equals_float64() -> None:
    """Whatever kernel serves float32, it computes the same loss."""
    image, target = pictures(3, 40, 29)
    loss = PhotometricLoss(0.2)
    exact, fast = loss(image, target), loss(image.float(), target.float())
    assert fast.loss == pytest.approx(exact.loss, rel=1e-5)
    scale = float(exact.image_gradient.abs().max())
    assert float((fast.image_gradient.double() - exact.image_gradient).abs().max()) < 1e-4 * scale


def test_weight_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="ssim_weight"):
        PhotometricLoss(1.5)
