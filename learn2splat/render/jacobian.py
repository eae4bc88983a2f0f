"""The linear map from a scene's raw parameters to its pictures, at one scene: J v, J^T u and diag(J^T W J).

With C [V, H, W, 3] the rendered colours and theta the raw parameters, J = dC / dtheta. The order of the Gaussians, who
is drawn, where a pixel stops, and which clamps are active stay as they are at the scene where J was taken; all
products then belong to one matrix, and <u, J v> = <J^T u, v> to rounding. Curvature products of Gauss-Newton methods
(J^T W J v) are made of these. Per blended Gaussian i with weight w_i = T_i alpha_i:
dC = sum_i w_i dc_i + (T_i c_i - S_i / (1 - alpha_i)) dalpha_i, with S_i what lies behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from learn2splat.render.base import RenderOutput
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix

BLOCK_SIDE = 10
"""Parameters in a Gaussian's curvature block: mean, log-scales and quaternion."""
TILE = 16
"""Side in pixels of the squares of a picture that the CPU rasteriser leaves out where nothing in them is wanted."""
DIFFERENCE_STEP = 1e-3
"""Largest change of a raw parameter in the step of `DifferenceJacobian`, in that parameter's unit."""
DIAGONAL_SAMPLES = 16
"""Random pictures from which `DifferenceJacobian` estimates a diagonal."""

Render = Callable[[GaussianScene], RenderOutput]


class Jacobian(Protocol):
    """Products with J; all may be called any number of times.

    The scene must not be changed in place while one is in use.
    """

    output: RenderOutput
    """The pictures at the scene where J was taken."""

    def push_forward(self, direction: GaussianScene, wanted: Tensor | None = None) -> Tensor:
        """J v: [V, H, W, 3], the change of the pictures per unit of ``direction``.

        Only the ``wanted`` [V, H, W] pixels need be right, by default all; others may be zero.
        """
        ...

    def pull_back(self, image: Tensor) -> GaussianScene:
        """J^T u for u [V, H, W, 3]."""
        ...

    def diagonal(self, weights: Tensor | None = None) -> GaussianScene:
        """diag(J^T W J) with W = diag(``weights``) [V, H, W, 3] >= 0, by default the identity."""
        ...

    def blocks(self, weights: Tensor | None = None) -> tuple[GaussianScene, Tensor]:
        """The diagonal, and [N, 10, 10]: the rows and columns of J^T W J of each mean, log-scales and quaternion."""
        ...


class AutogradJacobian:
    """Exact products by automatic differentiation of a differentiable ``render``, each at the cost of a rendering.

    Diagonals and blocks are made column by column, a rendering per parameter: for tests.
    """

    def __init__(self, render: Render, scene: GaussianScene) -> None:
        self._render, self._scene = render, scene.detach()
        self._leaves = self._scene.map(lambda tensor: tensor.clone().requires_grad_(True))
        with torch.enable_grad():
            self._image = render(self._leaves).image
        with torch.no_grad():
            self.output = render(self._scene)

    def push_forward(self, direction: GaussianScene, wanted: Tensor | None = None) -> Tensor:
        with forward_ad.dual_level(), torch.no_grad():
            moved = self._render(self._scene.map(forward_ad.make_dual, direction)).image
            tangent = forward_ad.unpack_dual(moved).tangent
        return torch.zeros_like(self.output.image) if tangent is None else tangent

    def pull_back(self, image: Tensor) -> GaussianScene:
        return _pulled_back(self._image, self._leaves, image)

    def diagonal(self, weights: Tensor | None = None) -> GaussianScene:
        def of(name: str, tensor: Tensor) -> Tensor:
            squares = [_dot(column, column, weights) for column in self._columns(name, range(tensor[:1].numel()))]
            return torch.stack(squares, dim=-1).view_as(tensor)

        return GaussianScene(*(of(name, tensor) for name, tensor in self._scene.items()))

    def blocks(self, weights: Tensor | None = None) -> tuple[GaussianScene, Tensor]:
        names = [("means", 3), ("log_scales", 3), ("quats", 4)]
        columns = [column for name, width in names for column in self._columns(name, range(width))]
        rows = [torch.stack([_dot(one, two, weights) for two in columns], dim=-1) for one in columns]
        return self.diagonal(weights), torch.stack(rows, dim=-2)

    def _columns(self, name: str, entries: range) -> list[Tensor]:
        """[N, V, H, W, 3] for each of the ``entries`` of parameter ``name``: the columns of J, all Gaussians."""
        columns = []
        for entry in entries:
            images = []
            for row in range(len(self._scene)):
                unit = self._scene.map(torch.zeros_like)
                getattr(unit, name)[row].view(-1)[entry] = 1.0
                images.append(self.push_forward(unit))
            columns.append(torch.stack(images))
        return columns


class DifferenceJacobian:
    """J v by a central difference of two renderings ``step`` apart on either side, J^T u by automatic differentiation.

    For renderers without forward mode. The decisions are those of the renderings, so that the two products are
    transposes of each other only where no decision changes, and up to O(step^2) and the rounding of a difference. The
    diagonal is a mean over `DIAGONAL_SAMPLES` pictures u of random signs of (J^T W^(1/2) u)^2 (Hutchinson 1989;
    Bekas et al. 2007), unbiased, and blocks likewise of outer products.
    """

    def __init__(self, render: Render, scene: GaussianScene, step: float = DIFFERENCE_STEP) -> None:
        self._render, self._scene, self._step = render, scene.detach(), step
        self._leaves = self._scene.map(lambda tensor: tensor.clone().requires_grad_(True))
        with torch.enable_grad():
            self._output = render(self._leaves)
        output, depth = self._output, self._output.depth
        self.output = RenderOutput(
            output.image.detach(), output.alpha.detach(), None if depth is None else depth.detach(), output.radii_px
        )

    def push_forward(self, direction: GaussianScene, wanted: Tensor | None = None) -> Tensor:
        size = max(float(tensor.abs().max()) for tensor in direction.tensors())
        if size == 0.0:
            return torch.zeros_like(self.output.image)
        step = self._step / size
        with torch.no_grad():
            ahead, behind = (
                self._render(self._scene.map(lambda at, way, h=h: at + h * way, direction)).image for h in (step, -step)
            )
        return (ahead - behind) / (2 * step)

    def pull_back(self, image: Tensor) -> GaussianScene:
        return _pulled_back(self._output.image, self._leaves, image)

    def diagonal(self, weights: Tensor | None = None) -> GaussianScene:
        return self.blocks(weights)[0]

    def blocks(self, weights: Tensor | None = None) -> tuple[GaussianScene, Tensor]:
        generator = torch.Generator().manual_seed(0)
        roots = torch.ones_like(self.output.image) if weights is None else weights.sqrt()
        diagonal = self._scene.map(torch.zeros_like)
        blocks = self._scene.means.new_zeros(len(self._scene), BLOCK_SIDE, BLOCK_SIDE)
        for _ in range(DIAGONAL_SAMPLES):
            signs = torch.randint(0, 2, roots.shape, generator=generator).to(roots) * 2 - 1
            sample = self.pull_back(signs * roots)
            diagonal = diagonal.map(lambda sum, part: sum + part.square() / DIAGONAL_SAMPLES, sample)
            rows = as_matrix(sample)[:, :BLOCK_SIDE]
            blocks = blocks + rows[:, :, None] * rows[:, None] / DIAGONAL_SAMPLES
        return diagonal, blocks


def _pulled_back(image: Tensor, leaves: GaussianScene, cotangent: Tensor) -> GaussianScene:
    if not image.requires_grad:
        return leaves.map(torch.zeros_like)
    grads = torch.autograd.grad(image, leaves.tensors(), cotangent, retain_graph=True, allow_unused=True)
    pairs = zip(leaves.tensors(), grads, strict=True)
    return GaussianScene(*(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in pairs))


def _dot(one: Tensor, two: Tensor, weights: Tensor | None) -> Tensor:
    """[N] weighted dot products of [N, V, H, W, 3]."""
    product = one * two if weights is None else one * two * weights
    return product.flatten(1).sum(dim=1)
