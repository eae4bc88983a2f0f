"""`resplat`: the recurrent refinement of ReSplat (arXiv 2510.08575) for any Gaussians, with or without gradients."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample

from learn2splat.cameras import Cameras
from learn2splat.data.views import middle_view
from learn2splat.errors import UserError
from learn2splat.networks.attention import KnnBlock, ViewAttention, padded
from learn2splat.networks.pyramid import CELL, Pyramid, cell_centers, cells
from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.learned.slopes import Descent, slopes
from learn2splat.scene.frame import Frame
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

SH_DEGREE = 1
"""Harmonics above this degree are neither seen nor moved."""
COLUMNS = {"means": 3, "log_scales": 3, "quats": 4, "logit_opacities": 1, "sh": 3 * (SH_DEGREE + 1) ** 2}
NUMBERS = sum(COLUMNS.values())
GROUPS = (3, 3, 4, 1, 3, NUMBERS - 14)
"""Columns of parameters with a slope of their own: as above, but colours apart from the harmonics of higher degree."""
MOST = 2.0
"""No number moves by more in one iteration; means are counted in sizes of the Gaussian."""
TOLERATED = 0.02
"""Root mean square error at which updates are half of what the network says."""
NEAR = 1e-3
"""Gaussians nearer to a camera than this are not seen by it, in units of the scene."""
UNSEEN = -1e4
"""Score of a view that does not see a Gaussian."""


class RecurrentUpdater(nn.Module):
    """Rendering errors at all input views and a hidden state per Gaussian in; a change and a new state out.

    Each iteration compares renderings with photos in pixels and in frozen features, lets the views attend to one
    another, reads the result where each Gaussian projects to, lets neighbours in 3D attend to one another, adds to the
    hidden state, and decodes from it a change to add. The weights are the same in all iterations, nothing is
    differentiated at test time, and what the network sees is the frame of the middle view. Untrained it moves nothing,
    and neither does it where all renderings equal the photos.

    What differs from the publication: errors are read at the projections into all views, weighted by a score that knows
    the rendered depth, not only at the cell that a Gaussian came from, so any scene can be refined and Gaussians may
    be born; features are the initialiser's pyramid, not a ResNet; the hidden state of Gaussians that no initialiser
    knows starts at zero, and the features of the photos are read along with the errors; scales are logarithms; changes
    are bounded; neighbours are those of `StepContext`.

    With ``gradients`` it also reads the derivative of the loss of all input views by the numbers that it changes, in
    the same frame and without its unit (`slopes`), and takes a step against it, whose length the hidden state decides
    for each Gaussian and group of parameters. That is not in the publication. The derivative is an input like any
    other: training goes through no derivative of it.

    Args:
        width: of features and hidden state, that of the initialiser, whose features of Gaussians start the latter.
        blocks: of attention over neighbours.
        gradients: whether gradients are used beside renderings.
    """

    def __init__(self, width: int = 64, blocks: int = 3, gradients: bool = False) -> None:
        super().__init__()
        self.width = width
        self.pyramid = Pyramid(width).requires_grad_(False)
        self.pixels = nn.Conv2d(3 * CELL**2, width, 1, bias=False)
        self.errors = nn.Conv2d(width, width, 1, bias=False)
        self.places = nn.Conv2d(7, width, 1)
        self.across = ViewAttention(width)
        self.score = nn.Linear(2 * width + 2, 1)
        self.read = nn.Linear(2 * width + 2, width)
        self.start = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.embed = nn.Linear(NUMBERS + 2 * width, width)
        self.blocks = nn.ModuleList(KnnBlock(width, width // 2, 2 * width) for _ in range(blocks))
        self.change_state = nn.Linear(width, width)
        last = nn.Linear(2 * width, NUMBERS)
        first, second = nn.Linear(width, 2 * width), nn.Linear(2 * width, 2 * width)
        self.head = nn.Sequential(nn.LayerNorm(width), first, nn.GELU(), second, nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.descent = Descent(width, GROUPS) if gradients else None

    @property
    def needs(self) -> frozenset[Need]:
        forward = frozenset({Need.RENDERINGS, Need.NEIGHBOURS})
        return forward if self.descent is None else forward | {Need.GRADIENTS}

    def perturbed(self, generator: torch.Generator) -> RecurrentUpdater:
        """A copy whose changes are larger or smaller by up to e^1."""
        other = copy.deepcopy(self).eval()
        lasts = [other.head[-1]] if other.descent is None else [other.head[-1], other.descent.lengths]
        factor = math.exp(2 * float(torch.rand((), generator=generator)) - 1)
        with torch.no_grad():
            for parameter in nn.ModuleList(lasts).parameters():
                parameter.mul_(factor)
        return other

    def init(self, scene: GaussianScene) -> OptimizerState:
        return OptimizerState({"latent": scene.means.new_zeros(len(scene), self.width)})

    def init_informed(self, scene: GaussianScene, features: Tensor) -> OptimizerState:
        """Differentiable in the weights in training; see `InformedOptimizer`."""
        if features.shape[1] != self.width:
            raise UserError(
                f"{features.shape[1]} features per Gaussian are those of another initialiser than that of this updater,"
                f" which gives {self.width}"
            )
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            latent = self.start(features.detach().to(self.embed.weight))
        return OptimizerState({"latent": latent.to(scene.means)})

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        """Fresh rows start with no hidden state."""
        return state.take(lineage)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        if context.renderings is None or context.neighbours is None:
            raise ValueError("RecurrentUpdater needs StepContext.renderings and neighbours")
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            found, latent = self._iterate(grads, scene, state.rows["latent"], context)
        return found, OptimizerState({"latent": latent})

    def _iterate(
        self, grads: GaussianScene, scene: GaussianScene, latent: Tensor, context: StepContext
    ) -> tuple[GaussianScene, Tensor]:
        """The change in world units, in the type of ``scene``, and the new hidden state."""
        weights, views, neighbours = self.embed.weight, context.renderings, context.neighbours
        assert views is not None
        assert neighbours is not None
        with torch.no_grad():
            cameras, given = views.cameras.to(dtype=weights.dtype), scene.detach().to(dtype=weights.dtype)
            frame = _frame(cameras, given)
            local = frame.scene(given.with_sh_degree(SH_DEGREE))
            sign = torch.where(local.quats[:, :1] < 0, -1.0, 1.0).to(weights)
            norm = sign * local.quats.norm(dim=1, keepdim=True)
            unit = local.log_scales.mean(dim=1, keepdim=True).exp()
            numbers = _columns(replace(local, means=soft(local.means), quats=local.quats / norm))
            if self.descent is not None:
                gradient = frame.gradient(grads.detach().to(dtype=weights.dtype).with_sh_degree(SH_DEGREE))
                gradient = replace(gradient, means=gradient.means * unit, quats=gradient.quats * norm)
                uphill, steepness = slopes(_columns(gradient), GROUPS, context.visible)
            photos, images = (part.to(weights).permute(0, 3, 1, 2) for part in (views.photos, views.images))
            difference = images - photos
            features = self.pyramid(photos)
            of_features = self.pyramid(images) - features
            size = difference.square().mean().sqrt()
            depth = avg_pool2d(padded((views.depth / views.alpha.clamp_min(1e-3)).to(weights)[:, None], CELL), CELL)
            places = self._places(frame, cameras, depth)
        errors = self.errors(of_features) + self.pixels(cells(difference))
        maps = torch.cat([errors + self.across(errors + self.places(places)), features], dim=1)
        seen = self._at_gaussians(maps, depth, given.means, cameras, frame)
        old = latent.to(weights)
        hidden = self.embed(torch.cat([numbers, old, seen], dim=1))
        if self.descent is not None:
            hidden = hidden + self.descent.seen(uphill, steepness)
        itself = torch.arange(len(scene), device=hidden.device)[:, None]
        nearest = torch.cat([itself, neighbours.long()], dim=1)
        for block in self.blocks:
            hidden = block(hidden, nearest)
        new = old + self.change_state(hidden)
        change = self.head(new)
        if self.descent is not None:
            change = change + self.descent.step(uphill, new)
        change = MOST * torch.tanh(change / MOST) * (size / (size + TOLERATED))
        means, log_scales, quats, logits, sh = change.split(list(COLUMNS.values()), dim=1)
        update = GaussianScene(means * unit, log_scales, quats * norm, logits[:, 0], sh.unflatten(1, (-1, 3)))
        world = frame.update_world(update).with_sh_degree(scene.sh_degree)
        return world.to(dtype=scene.means.dtype), new.to(latent)

    @staticmethod
    def _places(frame: Frame, cameras: Cameras, depth: Tensor) -> Tensor:
        """[V, 7, h, w] where the cells of a view look to: direction, surface point and its distance, in ``frame``."""
        rays = torch.einsum("vji,vrcj->vrci", cameras.cam_from_world[:, :3, :3], cameras.rays(cell_centers(depth)))
        points = cameras.centers_world[:, None, None] + rays * depth[:, 0, :, :, None]
        directions = nn.functional.normalize(frame.directions(rays), dim=-1)
        far = torch.log1p(depth / frame.unit_world)
        found = torch.cat([directions, soft(frame.points(points))], dim=-1).permute(0, 3, 1, 2)
        return torch.cat([found, far], dim=1)

    def _at_gaussians(self, maps: Tensor, depth: Tensor, means_world: Tensor, cameras: Cameras, frame: Frame) -> Tensor:
        """[N, width] what ``maps`` [V, C, h, w] hold at each Gaussian, over the views that see it."""
        with torch.no_grad():
            in_camera = torch.einsum("vij,nj->vni", cameras.cam_from_world[:, :3, :3], means_world)
            in_camera = in_camera + cameras.cam_from_world[:, None, :3, 3]
            z, near = in_camera[..., 2:], NEAR * frame.unit_world
            pixels = torch.einsum("vij,vnj->vni", cameras.K, in_camera)[..., :2] / z.clamp_min(near)
            size = CELL * torch.tensor([maps.shape[3], maps.shape[2]]).to(pixels)
            grid = (2 * pixels / size - 1)[:, :, None]
            sees = (grid.abs() <= 1).all(dim=-1) & (z > near)  # [V, N, 1]
            grid = grid.clamp(-2, 2)
        kept = torch.cat([maps, depth], dim=1)
        found = grid_sample(kept, grid, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)
        with torch.no_grad():
            behind = ((z + near) / (found[..., -1:] + near)).abs().log().clamp(-2, 2)
        read = torch.cat([found[..., :-1], behind, behind.abs()], dim=2)
        scores = torch.where(sees, self.score(read), UNSEEN)
        weights = torch.softmax(scores, dim=0) * sees
        return (weights * self.read(read)).sum(dim=0)


def soft(lengths: Tensor) -> Tensor:
    """Logarithms of large lengths of either sign, small ones as they are."""
    return lengths.sign() * torch.log1p(lengths.abs())


def _columns(scene: GaussianScene) -> Tensor:
    """[N, NUMBERS] a scene's numbers, or those of its derivative."""
    return torch.cat([tensor.reshape(len(scene), -1) for tensor in scene.tensors()], dim=1)


def _frame(cameras: Cameras, scene: GaussianScene) -> Frame:
    """The middle view's, with the typical depth of the Gaussians in it as its unit."""
    pose = cameras.cam_from_world[middle_view(cameras)][0]
    depth = scene.means @ pose[2, :3] + pose[2, 3]
    return Frame.of_camera(pose, depth.abs().median().clamp_min(1e-12))
