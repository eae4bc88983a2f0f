"""Adapter to gsplat's CUDA rasteriser (Ye et al. 2025); imported only when asked for."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.render.base import (
    AutogradRenderer,
    BackendMissingError,
    Capabilities,
    RenderOptions,
    RenderOutput,
    RenderSettings,
)
from learn2splat.render.jacobian import DifferenceJacobian, Jacobian
from learn2splat.scene.gaussians import GaussianScene, opacities, scales

GSPLAT_MAX_ALPHA = 0.999
"""Compiled into gsplat 1.5.3."""


def why_unavailable() -> str:
    """Why gsplat cannot render here, and what to do; empty when it can."""
    if not torch.cuda.is_available():
        return "gsplat needs a CUDA device and a CUDA build of torch; use --renderer cpu on this machine"
    try:
        import gsplat  # noqa: F401
    except ImportError as error:
        return f"gsplat cannot be imported ({error}); install it with: pip install 'learn2splat[cuda]'"
    return ""


class GsplatRenderer(AutogradRenderer):
    """gsplat 1.5.3 in its classic, unpacked mode."""

    capabilities = Capabilities(
        devices=("cuda",),
        per_view_gradients=True,
        deterministic=False,
        jacobian="central difference",
        curvature_diagonal="sampled",
    )

    def __init__(self, settings: RenderSettings = RenderSettings()) -> None:
        reason = why_unavailable()
        if reason:
            raise BackendMissingError(reason)
        if settings.max_alpha != GSPLAT_MAX_ALPHA:
            raise ValueError(f"gsplat's max_alpha is compiled in as {GSPLAT_MAX_ALPHA}, not {settings.max_alpha}")
        self.settings = settings

    def jacobian(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> Jacobian:
        return DifferenceJacobian(lambda at: self.render(at, cameras, **options), scene)

    def _render(
        self,
        scene: GaussianScene,
        cameras: Cameras,
        sh_degree: int | None = None,
        background: Tensor | None = None,
        depth: bool = False,
    ) -> tuple[RenderOutput, Tensor]:
        from gsplat import rasterization

        views = len(cameras)
        backgrounds = None if background is None else background.to(scene.means).expand(views, 3).contiguous()
        meta: dict[str, Any]
        pictures, alphas, meta = rasterization(
            means=scene.means,
            quats=scene.quats,
            scales=scales(scene),
            opacities=opacities(scene),
            colors=scene.sh,
            viewmats=cameras.cam_from_world.to(scene.means),
            Ks=cameras.K.to(scene.means),
            width=cameras.width,
            height=cameras.height,
            near_plane=self.settings.near,
            far_plane=self.settings.far,
            eps2d=self.settings.eps2d,
            sh_degree=scene.sh_degree if sh_degree is None else sh_degree,
            packed=False,
            backgrounds=backgrounds,
            render_mode="RGB+D" if depth else "RGB",
        )
        radii = meta["radii"].amax(dim=-1).int()
        output = RenderOutput(pictures[..., :3], alphas[..., 0], pictures[..., 3] if depth else None, radii)
        return output, meta["means2d"]
