"""The compiled L1 and SSIM against their definition in float64, with its gradient by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat import native
from learn2splat.native import loader
from learn2splat.native.photometric import photometric

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")


def definition(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and SSIM per view by a dense 11 x 11 convolution."""
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    taps = taps / taps.sum()
    window = (taps[:, None] * taps)[None, None].expand(3, 1, 11, 11)

    def filtered(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), window, padding=5, groups=3)

    mx, my = filtered(image), filtered(target)
    xx, yy, xy = (filtered(product) for product in (image * image, target * target, image * target))
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    ssim = ssim / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))
    return (image - target).abs().mean(dim=(1, 2, 3)), ssim.mean(dim=(1, 2, 3))


def pictures(views: int, height: int, width: int, kind: str = "noise") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(views, height, width, 3, generator=generator)
    if kind == "smooth":
        image = 0.5 + 0.3 * torch.linspace(0, 3, width)[None, None, :, None].sin() + 0.01 * image
    target = image + 0.1 * torch.randn(views, height, width, 3, generator=generator)
    return image, target.clamp(0, 1)


SIZES = [(1, 1, 1), (1, 3, 2), (2, 37, 53), (3, 64, 64), (1, 11, 100)]


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_values_and_gradient_are_those_of_the_definition(size: tuple[int, int, int], weight: float, kind: str) -> None:
    image, target = pictures(*size, kind)
    l1, ssim, gradient = photometric(image, target, weight, True)
    image64 = image.double().requires_grad_(True)
    expected_l1, expected_ssim = definition(image64, target.double())
    ((1 - weight) * expected_l1 + weight * (1 - expected_ssim)).mean().backward()
    torch.testing.assert_close(l1, expected_l1.detach(), rtol=1e-6, atol=0)
    # variances are differences of float32 numbers: absolute errors of 1e-7 beside C2 = 9e-4
    torch.testing.assert_close(ssim, expected_ssim.detach(), rtol=0, atol=1e-5)
    assert (gradient - image64.grad).abs().max() <= 2e-5 * image64.grad.abs().max()


def test_equal_pictures_are_at_the_optimum() -> None:
    image, _ = pictures(2, 20, 30)
    l1, ssim, gradient = photometric(image, image.clone(), 0.2, True)
    assert not l1.any()
    torch.testing.assert_close(ssim, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert gradient.abs().max() < 1e-6 / image.numel() * 60


def test_without_gradient_the_values_are_the_same() -> None:
    image, target = pictures(2, 37, 53)
    l1, ssim, _ = photometric(image, target, 0.2, True)
    l1_only, ssim_only, gradient = photometric(image, target, 0.2, False)
    assert gradient is None
    assert torch.equal(l1, l1_only)
    assert torch.equal(ssim, ssim_only)


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    image, target = pictures(3, 50, 41)
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(loader, "thread_count", lambda work, count=count: count)
        results.append(photometric(image, target, 0.2, True))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_wrong_pictures_are_refused() -> None:
    image, target = pictures(1, 8, 8)
    with pytest.raises(ValueError, match="V, H, W, 3"):
        photometric(image, target[:, :4], 0.2, False)
    with pytest.raises(TypeError, match="float32"):
        photometric(image.double(), target.double(), 0.2, False)
