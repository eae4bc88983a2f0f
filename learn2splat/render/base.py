"""The one interface through which everything else asks for pictures and gradients.

Semantics are gsplat 1.5.3's (Ye et al. 2025, "gsplat: An Open-Source Library for Gaussian Splatting"): see
``reference.py`` for the readable definition. Constants on which versions differ are in `RenderSettings`, so that
all methods of a comparison share them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.scene.gaussians import GaussianScene

if TYPE_CHECKING:
    from learn2splat.render.jacobian import Jacobian


class BackendMissingError(RuntimeError):
    """A backend that was asked for is not installed; the message says what to install."""


@dataclass(frozen=True)
class RenderSettings:
    """Constants of the rasterisation, pinned for every method of a comparison.

    Args:
        near: Gaussians with camera depth below this are dropped, world units.
        far: likewise above this.
        eps2d: added to the diagonal of the projected covariance, px^2 (the 2D low-pass).
        max_alpha: upper clamp of one Gaussian's alpha (gsplat 1.5.3: 0.999, later 0.99).
    """

    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
    max_alpha: float = 0.999

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"RenderSettings.{name} is {value!r}; it must be a number of 0 or more")


MIN_ALPHA = 1.0 / 255.0
"""A Gaussian contributes to a pixel only when its alpha there is at least this."""
MIN_TRANSMITTANCE = 1e-4
"""Blending of a pixel stops before the Gaussian that would bring the transmittance to this or below."""
MAX_EXTENT_SIGMA = 3.33
"""Largest half-width of a Gaussian's screen box in standard deviations."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do.

    Args:
        devices: where its tensors may lie.
        float64: whether it also renders in double precision.
        per_view_gradients: whether a pullback can tell views apart.
        deterministic: whether equal input gives equal bits.
        jacobian: how `Renderer.jacobian` makes J v: in forward mode ("exact"), or from two renderings, with the
            decisions of each ("central difference").
        curvature_diagonal: how it makes diag(J^T W J): "exact" or by random signs ("sampled").
    """

    devices: tuple[str, ...]
    float64: bool = False
    per_view_gradients: bool = False
    deterministic: bool = True
    jacobian: Literal["exact", "central difference"] = "central difference"
    curvature_diagonal: Literal["exact", "sampled"] = "sampled"


@dataclass(frozen=True)
class RenderOutput:
    """Pictures of V views of one size.

    Args:
        image: [V, H, W, 3] colour, not clamped from above; background included.
        alpha: [V, H, W] accumulated opacity, 1 - transmittance.
        depth: [V, H, W] sum of blending weight x camera depth (divide by alpha for the expected depth), world units;
            None unless asked for.
        radii_px: [V, N] int32, the larger half-width of the Gaussian's screen box; 0 where it is not drawn.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor | None
    radii_px: Tensor

    @property
    def visible(self) -> Tensor:
        """[V, N] bool: which Gaussians are drawn in which view."""
        return self.radii_px > 0


@dataclass(frozen=True)
class SceneGradients:
    """J^T u of one rendering: derivatives of a scalar by the raw parameters.

    Args:
        scene: summed over views.
        means2d_px: [V, N, 2] derivative by the projected centre in pixels (what densification thresholds), or None.
        view_squares: sum over views of the squared gradient of that view, or None.
        per_view: V gradients, one per view, or None.
    """

    scene: GaussianScene
    means2d_px: Tensor | None = None
    view_squares: GaussianScene | None = None
    per_view: tuple[GaussianScene, ...] | None = None


@dataclass(frozen=True)
class GradientRequest:
    """Which gradients beside the summed one a pullback returns."""

    means2d_px: bool = False
    view_squares: bool = False
    per_view: bool = False


class Pullback(Protocol):
    """The transposed derivative of one rendering; may be called once."""

    def __call__(
        self,
        image: Tensor,
        alpha: Tensor | None = None,
        depth: Tensor | None = None,
        request: GradientRequest = ...,
    ) -> SceneGradients:
        """Cotangents [V, H, W, 3], [V, H, W], [V, H, W] -> gradients by the scene's raw parameters."""
        ...


class RenderOptions(TypedDict, total=False):
    """What may be asked of one rendering; all optional.

    Args:
        sh_degree: use harmonics up to this degree; default all that are stored.
        background: [3] or [V, 3] colour; default black.
        depth: also compute the depth; default no.
    """

    sh_degree: int | None
    background: Tensor | None
    depth: bool


class Renderer(Protocol):
    """A rasteriser of Gaussian scenes."""

    settings: RenderSettings
    capabilities: Capabilities

    def render(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> RenderOutput:
        """Render; image, alpha and depth are differentiable by autograd in the scene's tensors.

        Args:
            scene: N Gaussians (N may be 0).
            cameras: V views of one image size.
            options: see `RenderOptions`.
        """
        ...

    def linearise(
        self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]
    ) -> tuple[RenderOutput, Pullback]:
        """Render outside autograd, with the pullback: the fast path of the inner loop. Arguments as in `render`."""
        ...

    def jacobian(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> Jacobian:
        """Render outside autograd, with the derivative as a linear map. Arguments as in `render`."""
        ...


class AutogradRenderer(ABC):
    """A renderer whose pictures autograd differentiates; `linearise` follows from that."""

    def render(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> RenderOutput:
        return self._render(scene, cameras, **options)[0]

    def linearise(
        self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]
    ) -> tuple[RenderOutput, Pullback]:
        return autograd_pullback(lambda leaves: self._render(leaves, cameras, **options), scene)

    @abstractmethod
    def _render(
        self,
        scene: GaussianScene,
        cameras: Cameras,
        sh_degree: int | None = None,
        background: Tensor | None = None,
        depth: bool = False,
    ) -> tuple[RenderOutput, Tensor]:
        """The output and the projected centres in pixels [V, N, 2] that it was computed from."""


def autograd_pullback(
    render: Callable[[GaussianScene], tuple[RenderOutput, Tensor]], scene: GaussianScene
) -> tuple[RenderOutput, Pullback]:
    """`linearise` for a renderer that is differentiable by autograd.

    Args:
        render: scene -> (output, projected centres in pixels [V, N, 2] that the output was computed from).
        scene: where to linearise.
    """
    leaves = scene.map(lambda tensor: tensor.detach().requires_grad_(True))
    with torch.enable_grad():
        output, means2d_px = render(leaves)

    def pull(outputs: list[Tensor], cotangents: list[Tensor], inputs: list[Tensor], keep: bool) -> list[Tensor]:
        grads = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=keep, allow_unused=True)
        return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(inputs, grads, strict=True)]

    @torch.enable_grad()  # without it, the views that are taken out of a batch would have no graph
    def pullback(
        image: Tensor,
        alpha: Tensor | None = None,
        depth: Tensor | None = None,
        request: GradientRequest = GradientRequest(),
    ) -> SceneGradients:
        pairs = [(output.image, image), (output.alpha, alpha), (output.depth, depth)]
        used = [(value, cotangent) for value, cotangent in pairs if value is not None and cotangent is not None]
        used = [(value, cotangent) for value, cotangent in used if value.requires_grad]
        inputs = [*leaves.tensors(), means2d_px]
        wants_views = request.view_squares or request.per_view
        if not used:
            total = [torch.zeros_like(leaf) for leaf in inputs]
        else:
            total = pull([v for v, _ in used], [c for _, c in used], inputs, wants_views)
        per_view: list[GaussianScene] = []
        if wants_views:
            for view in range(image.shape[0]):
                if used:
                    parts = pull([v[view] for v, _ in used], [c[view] for _, c in used], inputs[:-1], True)
                else:
                    parts = [torch.zeros_like(leaf) for leaf in inputs[:-1]]
                per_view.append(GaussianScene(*parts))
        squares = None
        if request.view_squares:
            squares = per_view[0].map(lambda *grads: sum(grad.square() for grad in grads), *per_view[1:])
        return SceneGradients(
            scene=GaussianScene(*total[:-1]),
            means2d_px=total[-1] if request.means2d_px else None,
            view_squares=squares,
            per_view=tuple(per_view) if request.per_view else None,
        )

    detached = RenderOutput(
        output.image.detach(),
        output.alpha.detach(),
        None if output.depth is None else output.depth.detach(),
        output.radii_px,
    )
    return detached, pullback
