"""A compact feed-forward initialiser: one Gaussian per 4 x 4 pixels of every photo."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from learn2splat.cameras import Cameras
from learn2splat.data.views import middle_view
from learn2splat.networks.attention import KnnBlock, ViewAttention
from learn2splat.networks.pyramid import CELL, Pyramid, cell_centers, cells, doubled, halving
from learn2splat.predict.base import Prediction
from learn2splat.predict.sweep import DEPTHS, length_world, log_depths, matching_cost
from learn2splat.scene.frame import Frame
from learn2splat.scene.gaussians import GaussianScene, rgb_to_sh0
from learn2splat.scene.harmonics import sh_rotations
from learn2splat.scene.neighbours import nearest_neighbours
from learn2splat.scene.rotation import multiplied, quaternions

VIEWS = (2, 16)
"""How many photos the initialiser takes."""
SH_DEGREE = 1
SH_NUMBERS = 3 * (SH_DEGREE + 1) ** 2
OUTPUTS = {"quats": 4, "log_scales": 3, "logit_opacities": 1, "offset": 2, "log_depth": 1, "sh": SH_NUMBERS}
SPREAD = 0.45
"""Standard deviation of an untrained Gaussian, in cells."""
LOGIT = 1.0
"""Logit of its opacity."""
DEPTH_SPAN = 0.3
"""The head moves logarithms of depths by less than this."""
SHARPNESS = 20.0
"""Untrained weight of the matching cost."""
TYPICAL, SIGMA = 1.5, 0.8
"""Untrained prior of the depth: log-normal, its median in units of `length_world`."""


class CompactInitialiser(nn.Module):
    """Photos -> depths by plane sweep -> points -> attention in 3D -> Gaussians.

    After ReSplat's first stage (arXiv 2510.08575, section 3.1) at the scale of a CPU: no pretrained backbone, so cells
    tell attention their rays; one U-Net level; the head may also correct the depth. Permuting the views permutes the
    Gaussians, and they move, turn and grow with the world. Untrained, Gaussians are isotropic, coloured as the photos
    and as deep as random features match. The Gaussians of a view come row by row, view after view.

    Args:
        width: of all features.
        planes: candidate depths.
        groups: of channels whose correlation is told apart.
        neighbours: points that each point attends to beside itself.
        blocks: pairs of attention over nearest points and over all views.
        long_side: most pixels of a side of the photos it predicts from. Its depths are as wrong from large photos as
            from small ones, and cover less of it with their smaller Gaussians: about what it was trained on is best.
    """

    def __init__(
        self,
        width: int = 64,
        planes: int = 48,
        groups: int = 4,
        neighbours: int = 12,
        blocks: int = 2,
        long_side: int | None = 96,
    ) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width={width} is no multiple of groups={groups}")
        self.planes, self.groups, self.neighbours, self.long_side = planes, groups, neighbours, long_side
        self.pyramid = Pyramid(width)
        self.rays = nn.Conv2d(6, width, 1)
        self.across = ViewAttention(width)
        self.depth = DepthNetwork(width, planes, groups)
        self.tokens = nn.Sequential(
            nn.Conv2d(2 * width + 3 * CELL**2 + 2, width, 1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.local = nn.ModuleList(KnnBlock(width, width // 2, 2 * width) for _ in range(blocks))
        self.wide = nn.ModuleList(ViewAttention(width) for _ in range(blocks))
        last = nn.Linear(width, sum(OUTPUTS.values()))
        first, second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Sequential(nn.LayerNorm(width), first, nn.GELU(), second, nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: Tensor, cameras: Cameras) -> Prediction:
        """See `Initialiser`; differentiable in weights and images, not in the cameras."""
        if not VIEWS[0] <= len(cameras) <= VIEWS[1]:
            raise ValueError(f"{len(cameras)} views: the initialiser takes {VIEWS[0]} to {VIEWS[1]}")
        if tuple(images.shape) != (len(cameras), cameras.height, cameras.width, 3):
            raise ValueError(f"images {tuple(images.shape)} do not match {len(cameras)} cameras")
        pictures = images.permute(0, 3, 1, 2).to(self.rays.weight)
        cameras = cameras.to(pictures.device, pictures.dtype)
        own = self.pyramid(pictures)
        rays = cameras.rays(cell_centers(own))
        seen = own + self.across(own + self.rays(_in_middle_frame(rays, cameras)))
        candidates = log_depths(cameras, self.planes)
        cost = matching_cost(self._unit(seen), cameras, candidates, self.groups)
        chances = self.depth(cost, seen).softmax(dim=1)
        log_depth = torch.einsum("vdhw,d->vhw", chances, candidates)
        unit = candidates.new_tensor(length_world(cameras))
        known = [own, seen, cells(pictures), (log_depth - unit.log())[:, None], chances.amax(dim=1, keepdim=True)]
        points = _points_world(rays, log_depth.detach(), cameras)
        features = self._in_space(self.tokens(torch.cat(known, dim=1)), points)
        outputs = self.head(features.permute(0, 2, 3, 1))
        parts = dict(zip(OUTPUTS, outputs.split(list(OUTPUTS.values()), dim=-1), strict=True))
        log_depth = log_depth + DEPTH_SPAN * torch.tanh(parts["log_depth"][..., 0] / DEPTH_SPAN)
        scene = self._gaussians(parts, rays, log_depth, pictures, cameras)
        return Prediction(scene, features.permute(0, 2, 3, 1).flatten(0, 2), log_depths=log_depth)

    def _unit(self, features: Tensor) -> Tensor:
        """Features of length 1 in each group of channels."""
        return normalize(features.unflatten(1, (self.groups, -1)), dim=2).flatten(1, 2)

    def _in_space(self, tokens: Tensor, points_world: Tensor) -> Tensor:
        """[V, width, h, w] after attention over the nearest of ``points_world`` [V, h, w, 3] and over all views."""
        views, width, rows, columns = tokens.shape
        points = points_world.reshape(-1, 3)
        itself = torch.arange(len(points), device=points.device)[:, None]
        nearest = torch.cat([itself, nearest_neighbours(points, self.neighbours).long()], dim=1)
        for local, wide in zip(self.local, self.wide, strict=True):
            state = local(tokens.permute(0, 2, 3, 1).reshape(-1, width), nearest)
            tokens = state.view(views, rows, columns, width).permute(0, 3, 1, 2)
            tokens = tokens + wide(tokens)
        return tokens

    def _gaussians(
        self, parts: dict[str, Tensor], rays: Tensor, log_depth: Tensor, pictures: Tensor, cameras: Cameras
    ) -> GaussianScene:
        focal = torch.stack([cameras.K[:, 0, 0], cameras.K[:, 1, 1]], dim=-1)[:, None, None]
        inside = nn.functional.pad(CELL / 2 * torch.tanh(parts["offset"]) / focal, (0, 1))
        cell = log_depth + math.log(SPREAD * CELL) - focal.log().mean(dim=-1)
        rotation = cameras.cam_from_world[:, :3, :3].mT
        quats = nn.functional.pad(torch.zeros_like(parts["quats"][..., 1:]), (1, 0), value=1.0) + parts["quats"]
        rgb = cells(pictures).unflatten(1, (3, -1)).mean(dim=2)
        sh = parts["sh"].unflatten(-1, (-1, 3))
        turned = torch.einsum("vij,vrcjk->vrcik", sh_rotations(rotation, SH_DEGREE), sh)
        first = rgb_to_sh0(rgb).permute(0, 2, 3, 1)[..., None, :]
        return GaussianScene(
            means=_points_world(rays + inside, log_depth, cameras).reshape(-1, 3),
            log_scales=(cell[..., None] + parts["log_scales"]).reshape(-1, 3),
            quats=multiplied(quaternions(rotation)[:, None, None], quats).reshape(-1, 4),
            logit_opacities=(LOGIT + parts["logit_opacities"]).flatten(),
            sh=torch.cat([turned[..., :1, :] + first, turned[..., 1:, :]], dim=-2).flatten(0, 2),
        )


class DepthNetwork(nn.Module):
    """Matching cost and features -> logits of the candidate depths: the cost itself, corrected by a small U-Net.

    Untrained, the correction is the logarithm of the prior of `TYPICAL` and `SIGMA`.

    Args:
        width: of the features.
        planes: candidate depths.
        groups: of the matching cost.
    """

    def __init__(self, width: int, planes: int, groups: int) -> None:
        super().__init__()
        self.weigh = nn.Conv3d(groups, 1, 1, bias=False)
        nn.init.constant_(self.weigh.weight, SHARPNESS / groups)
        self.enter = nn.Conv2d(planes + width, width, 3, padding=1)
        self.down = halving(width, width)
        self.leave = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.GELU())
        self.correct = nn.Conv2d(width, planes, 3, padding=1)
        nn.init.zeros_(self.correct.weight)
        near, far = (math.log(bound / TYPICAL) for bound in DEPTHS)
        self.correct.bias = nn.Parameter(-0.5 * (torch.linspace(near, far, planes) / SIGMA).square())

    def forward(self, cost: Tensor, features: Tensor) -> Tensor:
        """[V, planes, h, w] from the cost [V, groups, planes, h, w] and features [V, width, h, w]."""
        logits = self.weigh(cost)[:, 0]
        fine = nn.functional.gelu(self.enter(torch.cat([logits, features], dim=1)))
        return logits + self.correct(self.leave(torch.cat([fine, doubled(self.down, fine)], dim=1)))


def _in_middle_frame(rays: Tensor, cameras: Cameras) -> Tensor:
    """[V, 6, h, w] rays [V, h, w, 3] as Pluecker coordinates (direction and moment) in the frame of the middle view."""
    unit = cameras.K.new_tensor(length_world(cameras))
    frame = Frame.of_camera(cameras.cam_from_world[middle_view(cameras)][0], unit)
    rays_world = torch.einsum("vji,vrcj->vrci", cameras.cam_from_world[:, :3, :3], rays)
    directions = normalize(frame.directions(rays_world), dim=-1)
    origins = frame.points(cameras.centers_world)[:, None, None].expand_as(directions)
    return torch.cat([directions, torch.linalg.cross(origins, directions)], dim=-1).permute(0, 3, 1, 2)


def _points_world(rays: Tensor, log_depth: Tensor, cameras: Cameras) -> Tensor:
    """[V, h, w, 3] points at depths [V, h, w] along rays [V, h, w, 3] with z = 1 in the camera's frame."""
    in_camera = rays * log_depth.exp()[..., None]
    turned = torch.einsum("vji,vrcj->vrci", cameras.cam_from_world[:, :3, :3], in_camera)
    return turned + cameras.centers_world[:, None, None]
