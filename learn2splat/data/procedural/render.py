"""Photographs of a world with exact depth: five samples per pixel, one of them at the centre."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.data.procedural.geometry import Vec, along, normalised
from learn2splat.data.procedural.raycast import Band, Eye, Seen, cast, decode, look
from learn2splat.data.procedural.shading import Shader
from learn2splat.data.procedural.surface import Resolver
from learn2splat.data.procedural.world import World

OFFSETS = ((0.5, 0.5), (0.125, 0.375), (0.625, 0.125), (0.875, 0.625), (0.375, 0.875))
"""Where a pixel is sampled; the first is its centre, where depth is taken."""


@dataclass(frozen=True)
class Picture:
    """What one eye sees.

    Args:
        radiance: [H, W, 3] linear.
        alpha: [H, W] share of samples that hit something.
        depth: [H, W] camera depth at the pixel centres, 0 where they miss.
    """

    radiance: Tensor
    alpha: Tensor
    depth: Tensor


class Camera:
    """Renders one world from any number of eyes.

    Args:
        world: what to look at.
        shadow_side: resolution of the sun's shadow map.
    """

    def __init__(self, world: World, shadow_side: int) -> None:
        self.placed = list(world.placed)
        self.counts = [len(part) for part in self.placed]
        self.resolver = Resolver(self.placed)
        self.shader = Shader(world, shadow_side)

    def shoot_all(self, eyes: list[Eye], workers: int = 2) -> list[Picture]:
        """Pictures of all ``eyes``; the bits do not depend on ``workers``."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.shoot, eyes))

    def shoot(self, eye: Eye) -> Picture:
        """The picture one eye sees."""
        views = [look(part, eye) for part in self.placed]
        radiance = torch.zeros((3, eye.height, eye.width))
        alpha = torch.zeros((eye.height, eye.width))
        depth = torch.zeros((eye.height, eye.width))
        for phase, offset in enumerate(OFFSETS):
            for band in Band.of(eye, offset):
                rows = slice(band.top, band.top + band.rows)
                color, t = self._band(views, eye, band, phase)
                hit = torch.isfinite(t).view(band.rows, eye.width)
                radiance[:, rows] += color.view(3, band.rows, eye.width)
                alpha[rows] += hit
                if phase == 0:
                    depth[rows] = torch.where(hit, t.view(band.rows, eye.width), 0.0)
        return Picture((radiance / len(OFFSETS)).permute(1, 2, 0), alpha / len(OFFSETS), depth)

    def _band(self, views: list[Seen], eye: Eye, band: Band, phase: int) -> tuple[Tensor, Tensor]:
        depth, ident = decode(cast(views, self.counts, eye, band))
        x, y = band.rays(eye)
        rotation = eye.world_from_cam
        ray = tuple(float(r[0]) * x + float(r[1]) * y + float(r[2]) for r in rotation)
        unit = normalised(ray)
        color = self.shader.surroundings(unit)
        hit = (ident >= 0).nonzero()[:, 0]
        if len(hit):
            at = depth.index_select(0, hit)
            origin: Vec = tuple(torch.tensor(float(c)) for c in eye.center)
            point = along(origin, _rows(ray, hit), at)
            direction = _rows(unit, hit)
            surface = self.resolver.resolve(point, direction, ident.index_select(0, hit))
            spacing = 0.5 / eye.fx
            color[:, hit] = self.shader.shade(surface, at, direction, spacing, phase)
        return color, depth


def _rows(vector: Vec, index: Tensor) -> Vec:
    return tuple(component.index_select(0, index) for component in vector)
