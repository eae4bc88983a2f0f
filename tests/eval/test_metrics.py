"""Metrics on known pairs; LPIPS against an independent network in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from learn2splat.eval.lpips import BadWeightsError, Lpips, NoWeightsError
from learn2splat.eval.metrics import all_metrics, flip, flip_map, means, psnr, ssim

Weights = dict[str, Tensor]


def picture(seed: int = 0, height: int = 40, width: int = 56) -> Tensor:
    """[H, W, 3] float32 in 0..1: smooth colour with some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0)
    return (smooth + 0.05 * torch.rand(height, width, 3, generator=generator)).clamp(0, 1)


def flat(value: float) -> Tensor:
    return torch.full((32, 32, 3), value)


def alexnet() -> tuple[list[list[nn.Module]], list[str]]:
    """The feature network of Krizhevsky (2014) in slices, and the names of its convolutions."""
    first, second = nn.Conv2d(3, 64, 11, 4, 2), nn.Conv2d(64, 192, 5, padding=2)
    others = [nn.Conv2d(192, 384, 3, padding=1), nn.Conv2d(384, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)]
    slices: list[list[nn.Module]] = [[first, nn.ReLU()], [nn.MaxPool2d(3, 2), second, nn.ReLU()]]
    slices += [[nn.MaxPool2d(3, 2), others[0], nn.ReLU()], [others[1], nn.ReLU()], [others[2], nn.ReLU()]]
    return slices, ["1.0", "2.3", "3.6", "4.8", "5.10"]


def vgg16() -> tuple[list[list[nn.Module]], list[str]]:
    """The feature network of Simonyan and Zisserman (2015), an eighth as wide."""
    slices, channels = [], 3
    for index, (width, count) in enumerate([(8, 2), (16, 2), (32, 3), (64, 3), (64, 3)]):
        part: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
        for _ in range(count):
            part += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        slices.append(part)
    numbers = "1.0 1.2 2.5 2.7 3.10 3.12 3.14 4.17 4.19 4.21 5.24 5.26 5.28"
    return slices, numbers.split()


def reference(network: Callable[[], tuple[list[list[nn.Module]], list[str]]]) -> tuple[Weights, list[nn.Sequential]]:
    """Random weights under the names of the authors' package, and the network that has them, in float64."""
    torch.manual_seed(0)
    slices, names = network()
    weights: Weights = {
        "scaling_layer.shift": torch.tensor([-0.03, -0.09, -0.19]).view(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.46, 0.45, 0.44]).view(1, 3, 1, 1),
    }
    convolutions = [layer for part in slices for layer in part if isinstance(layer, nn.Conv2d)]
    for name, layer in zip(names, convolutions, strict=True):
        weights |= {f"net.slice{name}.weight": layer.weight.detach(), f"net.slice{name}.bias": layer.bias.detach()}
    for index, part in enumerate(slices):
        last = next(layer for layer in reversed(part) if isinstance(layer, nn.Conv2d))
        weights[f"lin{index}.model.1.weight"] = torch.rand(1, last.out_channels, 1, 1)
    return {name: tensor.clone() for name, tensor in weights.items()}, [
        nn.Sequential(*part).double() for part in slices
    ]


def test_equal_pictures_are_perfect() -> None:
    image = picture()
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-6)
    assert flip(image, image) == 0.0


def test_psnr_and_ssim_of_known_pairs() -> None:
    assert psnr(flat(0.5), flat(0.6)) == pytest.approx(20.0, abs=1e-5)
    assert psnr(flat(0.0), flat(1.0)) == pytest.approx(0.0, abs=1e-9)
    image = picture()
    assert psnr(image, image + 0.01) == pytest.approx(40.0, abs=1e-3)
    assert ssim(image, 1 - image) < 0.2 < ssim(image, (image + 0.02).clamp(0, 1))


def test_flip_of_known_pairs() -> None:
    """Black and white are (nearly) as different as can be; FLIP is in 0..1, grows with the difference, is symmetric."""
    assert flip(flat(0.0), flat(1.0)) > 0.65
    assert flip(torch.tensor([0.0, 1, 0]).expand(32, 32, 3), torch.tensor([0.0, 0, 1]).expand(32, 32, 3)) > 0.9
    steps = [flip(flat(0.5), flat(0.5 + 0.1 * step)) for step in range(5)]
    assert steps == sorted(set(steps))
    image, other = picture(), picture(1)
    found = flip_map(image, other)
    assert found.shape == image.shape[:2]
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert flip(image, other) == pytest.approx(float(found.double().mean()), abs=1e-12)
    torch.testing.assert_close(found, flip_map(other, image))
    half = image.clone()
    half[:, 28:] = other[:, 28:]  # what differs is seen where it differs
    assert float(flip_map(half, image)[:, :16].max()) < 1e-5 < float(flip_map(half, image)[:, 40:].mean())


@pytest.mark.parametrize("network", [alexnet, vgg16])
def test_lpips_is_that_of_an_independent_network(
    network: Callable[[], tuple[list[list[nn.Module]], list[str]]], tmp_path: Path
) -> None:
    weights, slices = reference(network)
    save_file(weights, tmp_path / "weights.safetensors")
    metric = Lpips.load(tmp_path / "weights.safetensors")
    pair = picture(2, 48, 64), picture(3, 48, 64)
    expected = 0.0
    features = [2 * side.permute(2, 0, 1)[None].double() - 1 for side in pair]
    features = [(side - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"] for side in features]
    with torch.no_grad():
        for index, part in enumerate(slices):
            features = [part(side) for side in features]
            one, two = (side / side.square().sum(dim=1, keepdim=True).sqrt() for side in features)
            expected += float((weights[f"lin{index}.model.1.weight"] * (one - two) ** 2).sum(dim=1).mean())
    assert metric(*pair) == pytest.approx(expected, rel=1e-4)
    assert metric(*pair) == pytest.approx(metric(*reversed(pair)), rel=1e-6)
    assert metric(pair[0], pair[0]) == 0.0
    assert math.isnan(metric(pair[0][:8, :8], pair[1][:8, :8]))


def test_weights_that_are_missing_or_wrong_are_told(tmp_path: Path) -> None:
    for nothing in (None, tmp_path / "none.safetensors"):
        metrics, reasons = all_metrics(nothing)
        assert metrics["lpips"] is None
        assert len(reasons) == 1
        assert "LPIPS is not measured" in reasons[0]
        with pytest.raises(NoWeightsError):
            Lpips.load(nothing)
    weights, _ = reference(alexnet)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"junk")
    with pytest.raises(BadWeightsError, match="not the weights"):
        all_metrics(file)
    save_file({name: tensor for name, tensor in weights.items() if name != "lin2.model.1.weight"}, file)
    with pytest.raises(BadWeightsError, match="lin2"):
        Lpips.load(file)
    save_file(weights | {"net.slice2.3.bias": torch.zeros(5)}, file)
    with pytest.raises(BadWeightsError, match="fit"):
        Lpips.load(file)
    save_file(weights | {"net.slice2.3.bias": weights["net.slice2.3.bias"].int()}, file)
    with pytest.raises(BadWeightsError, match="float32"):
        Lpips.load(file)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(1, 3, 1, 1, dtype=torch.int32), "torch.float32, torch.int32; save all of them as float32"),
        (torch.zeros(1, 3, 1, 1, dtype=torch.float16), "torch.float16, torch.float32; save"),
        (torch.full((1, 3, 1, 1), torch.nan), "'scaling_layer.shift' holds what is not finite"),
        (torch.full((1, 3, 1, 1), torch.inf), "'scaling_layer.shift' holds what is not finite"),
    ],
)
def test_weights_that_cannot_be_calculated_with_are_told(tmp_path: Path, tensor: torch.Tensor, says: str) -> None:
    weights = {name: weight.float() for name, weight in reference(alexnet)[0].items()}
    save_file(weights | {"scaling_layer.shift": tensor}, tmp_path / "weights.safetensors")
    with pytest.raises(BadWeightsError, match=f"not the weights of LPIPS.*{says}"):
        Lpips.load(tmp_path / "weights.safetensors")


def test_a_mean_is_null_where_a_view_has_none() -> None:
    assert means([{"psnr": 20.0 + i, "lpips": None} for i in range(3)]) == {"psnr": 21.0, "lpips": None}
