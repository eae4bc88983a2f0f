"""The Gaussian scene: raw parameters in frozen tensors, activations as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Value of the constant real spherical harmonic, 1 / (2 sqrt(pi))."""


@dataclass(frozen=True)
class GaussianScene:
    """N Gaussians in the spaces in which an optimizer steps. Also carries gradients and updates of such a scene.

    Args:
        means: [N, 3] centres, world units.
        log_scales: [N, 3] natural logarithm of the standard deviations along the principal axes, world units.
        quats: [N, 4] rotation of the principal axes, wxyz, any norm but zero.
        logit_opacities: [N] logit of the opacity.
        sh: [N, K, 3] real spherical-harmonic coefficients of RGB, K = (degree + 1)^2; the colour is 0.5 + their sum,
            floored at 0.
    """

    means: Tensor
    log_scales: Tensor
    quats: Tensor
    logit_opacities: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        expected = {"means": (n, 3), "log_scales": (n, 3), "quats": (n, 4), "logit_opacities": (n,)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"GaussianScene.{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        k = self.sh.shape[1] if self.sh.ndim == 3 else -1
        if self.sh.shape[0] != n or k not in (1, 4, 9, 16) or self.sh.shape[-1] != 3:
            raise ValueError(f"GaussianScene.sh has shape {tuple(self.sh.shape)}, expected ({n}, 1|4|9|16, 3)")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the stored harmonics, 0..3."""
        return {1: 0, 4: 1, 9: 2, 16: 3}[self.sh.shape[1]]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every parameter, in the order of the fields."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def tensors(self) -> tuple[Tensor, ...]:
        """All parameters, in the order of the fields."""
        return tuple(tensor for _, tensor in self.items())

    def map(self, function: Callable[..., Tensor], *others: GaussianScene) -> GaussianScene:
        """Apply ``function`` to each parameter (and the same parameter of ``others``)."""
        columns = zip(self.tensors(), *(other.tensors() for other in others), strict=True)
        return GaussianScene(*(function(*column) for column in columns))

    def take(self, index: Tensor) -> GaussianScene:
        """The rows at ``index`` [M] (int64 or a bool mask [N])."""
        return self.map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> GaussianScene:
        """Move and convert all parameters."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def detach(self) -> GaussianScene:
        """The same values outside any graph."""
        return self.map(Tensor.detach)

    def with_sh_degree(self, degree: int) -> GaussianScene:
        """Truncate the harmonics to ``degree``, or pad them with zeros."""
        k = (degree + 1) ** 2
        sh = self.sh[:, :k]
        if sh.shape[1] < k:
            sh = torch.cat([sh, sh.new_zeros(len(self), k - sh.shape[1], 3)], dim=1)
        return replace(self, sh=sh.contiguous())

    def is_finite(self) -> bool:
        """Whether every parameter is finite."""
        sums = torch.stack([tensor.sum(dtype=torch.float64) for tensor in self.tensors()])  # NaN and inf survive a sum
        return bool(torch.isfinite(sums).all())


def scales(scene: GaussianScene) -> Tensor:
    """[N, 3] standard deviations along the principal axes, world units."""
    return scene.log_scales.exp()


def opacities(scene: GaussianScene) -> Tensor:
    """[N] opacities in 0..1."""
    return scene.logit_opacities.sigmoid()


def rgb_to_sh0(rgb: Tensor) -> Tensor:
    """Colour in 0..1 -> constant coefficient, same shape."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: Tensor) -> Tensor:
    """Constant coefficient -> colour, same shape, not clamped."""
    return sh0 * SH_C0 + 0.5
