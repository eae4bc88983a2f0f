"""LPIPS (Zhang et al. 2018): the distance of two pictures in the features of a classifier.

The weights are other people's, so the package neither ships nor downloads them: a user names a file. With the
authors' package, which does download them, it is made by

    python -c "import lpips, safetensors.torch as s;
    s.save_file({k: v.clone() for k, v in lpips.LPIPS(net='vgg').state_dict().items()}, 'lpips_vgg.safetensors')"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, normalize

from learn2splat.errors import UserError


class NoWeightsError(UserError):
    """There is no file of weights; the message says how to name one."""


class BadWeightsError(UserError):
    """A file that does not hold the weights of LPIPS; the message says what is wrong."""


@dataclass(frozen=True)
class Backbone:
    """The convolutions of a classifier, cut into the slices whose ends LPIPS looks at.

    Args:
        slices: numbers of the convolutions of each slice, as in the file.
        stride: of the first convolution; the others have 1.
        pool: side of the maximum pools; they have stride 2.
        pooled: slices that begin with one.
    """

    slices: tuple[tuple[int, ...], ...]
    stride: int
    pool: int
    pooled: tuple[int, ...]


ALEXNET = Backbone(((0,), (3,), (6,), (8,), (10,)), stride=4, pool=3, pooled=(1, 2))
VGG16 = Backbone(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), stride=1, pool=2, pooled=(1, 2, 3, 4))
DTYPES = {torch.float32, torch.float64}
MAX_PADDING = 2
"""Convolutions keep the size of a picture, but for AlexNet's first one: of side 11, it pads like one of side 5."""


class Lpips:
    """The distance between two pictures; 0 for equal ones.

    Args:
        weights: named as in the ``state_dict`` of the authors' package (version 0.1), of AlexNet or VGG-16.

    Raises:
        BadWeightsError: a tensor is missing or not finite, or does not fit the others.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self.backbone = VGG16 if "net.slice1.2.weight" in weights else ALEXNET
        self._check()

    @classmethod
    def load(cls, path: str | Path | None) -> Lpips:
        """Read a safetensors file.

        Raises:
            NoWeightsError: no file is named, or it does not exist.
            BadWeightsError: it holds something else.
        """
        if path is None or not (file := Path(path).expanduser()).is_file():
            what = "no file of weights is named" if path is None else f"{path}: no such file"
            raise NoWeightsError(f"LPIPS is not measured: {what} (lpips=FILE; learn2splat/eval/lpips.py says which)")
        try:
            return cls(load_file(file))
        except (OSError, SafetensorError, BadWeightsError) as error:
            raise BadWeightsError(f"{path}: not the weights of LPIPS ({error})") from error

    def __call__(self, image: Tensor, target: Tensor) -> float:
        """Compare [H, W, 3] RGB in 0..1 with [H, W, 3]; NaN where they are too small for the network."""
        pair = torch.stack([image, target]).permute(0, 3, 1, 2).to(self._weight("scaling_layer.shift", image))
        features = 2 * pair - 1
        features = (features - self._weight("scaling_layer.shift", image)) / self._weight("scaling_layer.scale", image)
        distance = 0.0
        for index, numbers in enumerate(self.backbone.slices):
            if index in self.backbone.pooled:
                if min(features.shape[2:]) < self.backbone.pool:
                    return math.nan
                features = max_pool2d(features, self.backbone.pool, 2)
            for number in numbers:
                name = f"net.slice{index + 1}.{number}"
                weight = self._weight(f"{name}.weight", image)
                padding = min(weight.shape[-1] // 2, MAX_PADDING)
                if min(features.shape[2:]) + 2 * padding < weight.shape[-1]:
                    return math.nan
                stride = self.backbone.stride if number == 0 else 1
                features = conv2d(features, weight, self._weight(f"{name}.bias", image), stride, padding).relu()
            unit = normalize(features, dim=1, eps=1e-10)
            weight = self._weight(f"lin{index}.model.1.weight", image)
            distance += float(conv2d((unit[:1] - unit[1:]).square(), weight).mean(dtype=torch.float64))
        return distance

    def _weight(self, name: str, like: Tensor) -> Tensor:
        self.weights[name] = self.weights[name].to(like.device)
        return self.weights[name]

    def _check(self) -> None:
        kinds = {tensor.dtype for tensor in self.weights.values()}
        if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
            raise BadWeightsError(f"its tensors are {', '.join(sorted(map(str, kinds)))}; save all of them as float32")
        broken = [name for name, tensor in self.weights.items() if not tensor.isfinite().all()]
        if broken:
            raise BadWeightsError(f"the tensor {broken[0]!r} holds what is not finite; export the weights anew")
        shapes = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        try:
            fits = shapes["scaling_layer.shift"] == shapes["scaling_layer.scale"] == (1, 3, 1, 1)
            channels = 3
            for index, numbers in enumerate(self.backbone.slices):
                for number in numbers:
                    out, inner, height, width = shapes[f"net.slice{index + 1}.{number}.weight"]
                    fits &= inner == channels and height == width and height % 2 == 1
                    fits &= shapes[f"net.slice{index + 1}.{number}.bias"] == (out,)
                    channels = out
                fits &= shapes[f"lin{index}.model.1.weight"] == (1, channels, 1, 1)
        except KeyError as error:
            raise BadWeightsError(f"the tensor {error} is missing") from error
        except ValueError as error:
            raise BadWeightsError(f"a convolution is not two-dimensional ({error})") from error
        if len(dtypes := {tensor.dtype for tensor in self.weights.values()}) > 1 or not dtypes <= DTYPES:
            raise BadWeightsError("its tensors are not all float32, nor all float64")
        if not fits:
            raise BadWeightsError("the shapes of its tensors do not fit each other")
