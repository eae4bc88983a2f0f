"""Plane sweep: how well each cell of a view, at each of many depths, matches what its nearest views show there."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from learn2splat.cameras import Cameras
from learn2splat.data.views import view_features
from learn2splat.networks.pyramid import CELL, cell_centers
from learn2splat.scene.random_points import focus_distance

NEAREST = 2
"""Views that each view is compared with, when there are so many."""
DEPTHS = (0.25, 16.0)
"""Range of the planes, in units of `length_world`."""


def length_world(cameras: Cameras) -> float:
    """The length that depths are measured by: where the cameras look, or the size of their rig if that is larger."""
    return max(focus_distance(cameras), cameras.extent_world)


def log_depths(cameras: Cameras, planes: int) -> Tensor:
    """[planes] natural logarithms of the candidate depths, world units, evenly spaced."""
    low, high = (math.log(bound * length_world(cameras)) for bound in DEPTHS)
    return torch.linspace(low, high, planes, dtype=torch.float64).to(cameras.K)


def nearest_views(cameras: Cameras) -> Tensor:
    """[V, min(NEAREST, V - 1)] int64 views that each view is compared with, nearest first."""
    features = view_features(cameras)
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return distances.argsort(dim=1, stable=True)[:, : min(NEAREST, len(cameras) - 1)]


def matching_cost(features: Tensor, cameras: Cameras, log_depths: Tensor, groups: int) -> Tensor:
    """[V, groups, D, h, w] mean correlation with the nearest views that see the point; 0 where none does.

    Args:
        features: [V, C, h, w] of unit length in each of ``groups`` groups of channels; C is a multiple of ``groups``.
        cameras: V views.
        log_depths: [D].
        groups: of channels that are compared apart (group-wise correlation, Guo et al. 2019).
    """
    rows, columns = features.shape[2:]
    rays, nearest = cameras.rays(cell_centers(features)), nearest_views(cameras)
    costs = []
    for view in range(len(cameras)):
        others = nearest[view]
        in_camera = rays[view][None] * log_depths.exp()[:, None, None, None]  # [D, h, w, 3]
        between = cameras.cam_from_world[others] @ torch.linalg.inv(cameras.cam_from_world[view])
        points = torch.einsum("sij,dhwj->sdhwi", cameras.K[others] @ between[:, :3, :3], in_camera)
        points = points + torch.einsum("sij,sj->si", cameras.K[others], between[:, :3, 3])[:, None, None, None]
        depth = points[..., 2:]
        size = points.new_tensor([columns, rows]) * CELL
        grid = 2 * points[..., :2] / depth.clamp_min(1e-6 * float(log_depths[0].exp())) / size - 1
        seen = ((grid.abs() <= 1).all(dim=-1) & (depth[..., 0] > 0)).to(features)[:, None]
        flat = grid.clamp(-2, 2).flatten(1, 2)
        sampled = grid_sample(features[others], flat, align_corners=False, padding_mode="border")
        sampled = sampled.unflatten(2, (len(log_depths), rows))  # [S, C, D, h, w]
        products = (sampled * features[view][None, :, None]).unflatten(1, (groups, -1)).sum(dim=2)
        costs.append((products * seen).sum(dim=0) / seen.sum(dim=0).clamp_min(1))
    return torch.stack(costs)
