"""The definition of what is right: a readable rasteriser in plain torch, in float32 or float64, on any device.

Every 16 x 16 tile is blended densely over the Gaussians whose screen box touches it, front to back. Memory grows with
256 x (Gaussians per tile); use it for tests, for float64, and where no compiled kernel is available.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.render.base import (
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    AutogradRenderer,
    Capabilities,
    RenderOptions,
    RenderOutput,
    RenderSettings,
)
from learn2splat.render.jacobian import AutogradJacobian, Jacobian
from learn2splat.render.projection import Ellipses, project
from learn2splat.scene.gaussians import GaussianScene

TILE = 16


class ReferenceRenderer(AutogradRenderer):
    """Plain torch, differentiable by autograd; see the module's docstring."""

    capabilities = Capabilities(
        devices=("cpu", "cuda"),
        float64=True,
        per_view_gradients=True,
        jacobian="exact",
        curvature_diagonal="exact",
    )

    def __init__(self, settings: RenderSettings = RenderSettings()) -> None:
        self.settings = settings

    def jacobian(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> Jacobian:
        return AutogradJacobian(lambda at: self.render(at, cameras, **options), scene)

    def _render(
        self,
        scene: GaussianScene,
        cameras: Cameras,
        sh_degree: int | None = None,
        background: Tensor | None = None,
        depth: bool = False,
    ) -> tuple[RenderOutput, Tensor]:
        degree = scene.sh_degree if sh_degree is None else sh_degree
        size = (cameras.width, cameras.height)
        ellipses = [self._project(scene, cameras, view, size, degree) for view in range(len(cameras))]
        means2d_px = torch.stack([view.means2d_px for view in ellipses])
        views = []
        for seen, centers in zip(ellipses, means2d_px.unbind(), strict=True):
            blended = self._blend(replace(seen, means2d_px=centers), size)
            views.append((*blended, seen.half_widths_px.amax(dim=-1).int()))
        color, transmittance, depth_sum, radii = (torch.stack(column) for column in zip(*views, strict=True))
        if background is not None:
            color = color + transmittance[..., None] * background.to(color).expand(len(cameras), 3)[:, None, None]
        output = RenderOutput(color, 1 - transmittance, depth_sum if depth else None, radii)
        return output, means2d_px

    def _project(
        self, scene: GaussianScene, cameras: Cameras, view: int, size: tuple[int, int], degree: int
    ) -> Ellipses:
        K, cam_from_world = cameras.K[view].to(scene.means), cameras.cam_from_world[view].to(scene.means)
        return project(scene, K, cam_from_world, size, self.settings, degree)

    def _blend(self, ellipses: Ellipses, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Colour [H, W, 3], transmittance [H, W] and depth sum [H, W] of one view."""
        width, height = size
        drawn = torch.nonzero(ellipses.half_widths_px[:, 0] > 0)[:, 0]
        # gsplat sorts by the bits of the float32 depth, stably
        drawn = drawn[torch.argsort(ellipses.depths.detach()[drawn].float(), stable=True)]
        with torch.no_grad():
            center, half = ellipses.means2d_px[drawn], ellipses.half_widths_px[drawn]
            first = torch.floor((center - half) / TILE)
            end = torch.ceil((center + half) / TILE)
        rows = []
        for top in range(0, height, TILE):
            row = []
            for left in range(0, width, TILE):
                tile = torch.tensor([left // TILE, top // TILE], device=center.device)
                inside = ((first <= tile) & (tile < end)).all(dim=-1)
                extent = (left, min(left + TILE, width), top, min(top + TILE, height))
                row.append(self._blend_tile(ellipses, drawn[inside], extent))
            rows.append([torch.cat(column, dim=1) for column in zip(*row, strict=True)])
        color, transmittance, depth = (torch.cat(column, dim=0) for column in zip(*rows, strict=True))
        return color, transmittance, depth

    def _blend_tile(
        self, ellipses: Ellipses, index: Tensor, extent: tuple[int, int, int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        left, right, top, bottom = extent
        center = ellipses.means2d_px[index]
        pixel_x = torch.arange(left, right).to(center)[None, :, None] + 0.5
        pixel_y = torch.arange(top, bottom).to(center)[:, None, None] + 0.5
        dx, dy = center[:, 0] - pixel_x, center[:, 1] - pixel_y  # [h, w, n] by broadcasting
        conic = ellipses.conics[index]
        sigma = 0.5 * (conic[:, 0] * dx * dx + conic[:, 2] * dy * dy) + conic[:, 1] * dx * dy
        alpha = (ellipses.opacities[index] * torch.exp(-sigma)).clamp_max(self.settings.max_alpha)
        alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, torch.zeros_like(alpha))
        after = torch.cumprod(1 - alpha, dim=-1)
        alpha = torch.where(after > MIN_TRANSMITTANCE, alpha, torch.zeros_like(alpha))
        after = torch.cumprod(1 - alpha, dim=-1)
        before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1)
        weights = alpha * before[..., : alpha.shape[-1]]
        color = weights @ ellipses.colors[index]
        transmittance = after[..., -1] if len(index) else center.new_ones(alpha.shape[:-1])
        return color, transmittance, weights @ ellipses.depths[index]
