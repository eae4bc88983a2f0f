"""What the context views say about each Gaussian before anything is optimised: what precision is predicted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learn2splat.losses import PhotometricLoss
from learn2splat.predict.uncertainty import GROUPS, UncertaintyHead, by_group
from learn2splat.proximal import Proximal
from learn2splat.render.base import GradientRequest
from learn2splat.residuals import Residuals, RootPhotometric, SquaredError
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import SH_C0, GaussianScene
from learn2splat.scene_loss import SceneLoss
from learn2splat.scene_model import SceneModel

TINY = 1e-12
TYPICAL = (
    *((2.3, 0.66), (0.32, 0.08), (0.13, 0.67), (0.76, 0.5), (0.84, 0.84), (2.3, 0.93), (0.074, 0.044), (0.022, 0.027)),
    *((-1.4, 2.0),) * len(GROUPS),
    *((0.4, 0.25),) * len(GROUPS),
)
"""Mean and standard deviation of what features are made of, over predicted Gaussians of procedural scenes."""
MOST_SPREADS = 6.0
"""Features lie within +-this."""


@dataclass(frozen=True)
class Evidence:
    """Of N Gaussians and V context views.

    Args:
        views: [N] how many views see a Gaussian, (sum c)^2 / sum c^2 of its contributions c to them; 0 without any.
        features: [N, `learn2splat.predict.uncertainty.FEATURES`], free of the scale of the world and of the loss; the
            second half is the mean of the first over the Gaussians, as scenes differ in what may move at all.
        curvature: mean of diag(J^T B J) over the Gaussians, one number per entry of `GROUPS`.
    """

    views: Tensor
    features: Tensor
    curvature: Tensor


@torch.no_grad()
def evidence(scene_loss: SceneLoss, residuals: Residuals, scene: GaussianScene, views: Sequence[int]) -> Evidence:
    """Look at ``scene`` from ``views``.

    Args:
        scene_loss: photos, renderer and background.
        residuals: the loss whose curvature is meant.
        scene: N Gaussians.
        views: the context.
    """
    scene = scene.detach()
    diagonal = SceneModel(scene_loss, residuals, scene, views).diagonal()
    own = torch.stack([part.mean(dim=1) for part in by_group(diagonal)], dim=1)
    own[:, GROUPS.index("quats")] = own[:, GROUPS.index("log_scales")]  # round Gaussians have none in their rotation
    curvature = own.mean(dim=0).clamp_min(TINY)
    seen, wrong = _contributions(scene_loss, scene, views)
    total, squares = seen.sum(dim=0), seen.square().sum(dim=0)
    effective = torch.where(squares > 0, total.square() / squares.clamp_min(TINY), 0.0)
    error = wrong.sum(dim=0) / total.clamp_min(TINY)
    apart = (wrong / seen.clamp_min(TINY) - error).square()
    dissent = ((seen * apart).sum(dim=0) / total.clamp_min(TINY)).sqrt()
    footprint = pixel_footprint_world(
        scene.means, scene_loss.cameras.take(list(views)), scene_loss.renderer.settings.near
    )
    sizes = scene.log_scales.mean(dim=1) - footprint.log()
    longest = scene.log_scales.amax(dim=1) - scene.log_scales.mean(dim=1)
    known = [effective, 1 / (1 + effective), sizes, longest, scene.logit_opacities, total.log1p(), error, dissent]
    relative = (own / curvature + 1e-3).log()
    found = torch.cat([torch.stack(known, dim=1), relative, _agreement(scene_loss, scene, views)], dim=1)
    typical, spread = torch.tensor(TYPICAL, device=found.device).unbind(dim=1)
    own_features = ((found - typical) / spread).clamp(-MOST_SPREADS, MOST_SPREADS)
    of_scene = own_features.mean(dim=0).expand_as(own_features)
    return Evidence(effective, torch.cat([own_features, of_scene], dim=1), curvature)


def predicted_proximal(
    head: UncertaintyHead, scene_loss: SceneLoss, scene: GaussianScene, views: Sequence[int]
) -> Proximal:
    """The pull towards ``scene`` that ``head`` predicts for the loss of ``scene_loss``."""
    loss = scene_loss.loss
    residuals = RootPhotometric(loss) if isinstance(loss, PhotometricLoss) else SquaredError()
    found = evidence(scene_loss, residuals, scene, views)
    with torch.no_grad():
        precision = head(found.features, found.curvature).scene(scene)
    return Proximal(scene, precision)


def _contributions(scene_loss: SceneLoss, scene: GaussianScene, views: Sequence[int]) -> tuple[Tensor, Tensor]:
    """[V, N] sums over pixels of a Gaussian's blending weights, and of these times the absolute error (0..1) there."""
    plain = replace(scene, sh=torch.zeros_like(scene.sh[:, :1]))  # grey: no colour is clamped
    rows = []
    for view in views:
        cameras = scene_loss.cameras.take([view])
        image = scene_loss.renderer.render(scene, cameras, background=scene_loss.background).image
        error = (scene_loss.masked(image, [view]) - scene_loss.photos([view])).abs().mean(dim=-1, keepdim=True)
        blended = scene_loss.renderer.jacobian(plain, cameras)
        sums = [blended.pull_back(weights.expand_as(image)).sh[:, 0] for weights in (torch.ones_like(error), error)]
        rows.append(torch.stack(sums).mean(dim=-1) / SH_C0)
    weights, errors = torch.stack(rows, dim=1)
    return weights, errors


def _agreement(scene_loss: SceneLoss, scene: GaussianScene, views: Sequence[int]) -> Tensor:
    """[N, groups] |sum g|^2 / (V sum |g|^2) of the views' gradients g: 1 where all pull alike, 0 where they cancel."""
    found = scene_loss.gradient(scene, views, GradientRequest(view_squares=True))
    assert found.view_squares is not None
    together = torch.stack([part.square().sum(dim=1) for part in by_group(found.grads)], dim=1)
    apart = torch.stack([part.sum(dim=1) for part in by_group(found.view_squares)], dim=1)
    return torch.where(apart > 0, together / (len(views) * apart).clamp_min(torch.finfo(apart.dtype).tiny), 0.0)
