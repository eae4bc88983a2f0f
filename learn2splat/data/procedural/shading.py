"""Radiance of what was hit: shadowed sun, occluded sky, highlights, mirrored surroundings, haze."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from learn2splat.data.procedural.arrays import Array
from learn2splat.data.procedural.atlas import Atlas
from learn2splat.data.procedural.geometry import Vec, along, cross, dot, normalised
from learn2splat.data.procedural.primitives import Placed
from learn2splat.data.procedural.raycast import Eye, depth_map
from learn2splat.data.procedural.surface import Surface
from learn2splat.data.procedural.world import World

SKY_LIGHTS = 20
_FAR = 30.0
_TAPS = torch.tensor([[0.35, 0.1], [-0.25, 0.55], [-0.5, -0.35], [0.4, -0.75]])


def _vec(values: Array) -> Vec:
    return tuple(torch.tensor(float(v)) for v in values)


class ShadowMap:
    """Depth of the nearest caster as seen from far away along one direction."""

    def __init__(self, placed: list[Placed], direction: Array, center: Array, radius: float, side: int) -> None:
        forward = -direction / np.linalg.norm(direction)
        right = np.cross(forward, [0.0, 0.0, 1.0] if abs(forward[2]) < 0.95 else [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward], 1)
        focal = 0.5 * side * _FAR
        self.eye = Eye(center - forward * radius * _FAR, rotation, focal, focal, side / 2, side / 2, side, side)
        depth = depth_map(placed, self.eye)
        self.map = torch.where(torch.isfinite(depth), depth, 1e6)[None, None]
        self.texel = 2 * radius / side
        self.to_light = _vec(direction / np.linalg.norm(direction))

    def _project(self, point: Vec) -> tuple[Tensor, Tensor, Tensor]:
        rotation, center = self.eye.world_from_cam, self.eye.center
        local = tuple(dot(_vec(rotation[:, i]), point) - float(rotation[:, i] @ center) for i in range(3))
        return local[0] / local[2] * _FAR, local[1] / local[2] * _FAR, local[2]

    def lit(self, point: Vec, normal: Vec, blur: float, phase: int) -> Tensor:
        """Fraction [n] of the source that ``point`` sees, by four taps within ``blur`` (fraction of the map)."""
        lifted = along(point, normal, torch.tensor(1.5 * self.texel))
        x, y, z = self._project(lifted)
        grid = torch.stack([x, y], -1)
        angle = torch.tensor(2.4 * phase)
        turned = _TAPS @ torch.stack(
            [torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])]
        )
        total = torch.zeros_like(z)
        limit = z - self.texel
        for tap in turned * blur:
            near = F.grid_sample(
                self.map, (grid + tap)[None, None], mode="nearest", padding_mode="border", align_corners=False
            )
            total += (near[0, 0, 0] >= limit).float()
        return total * 0.25

    def seen(self, point: Vec, normal: Vec) -> Tensor:
        """Whether [n] one ray towards the source is free, softly."""
        x, y, z = self._project(along(point, normal, torch.tensor(1.5 * self.texel)))
        grid = torch.stack([x, y], -1)[None, None]
        near = F.grid_sample(self.map, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0, 0]
        return ((near - z) / (3 * self.texel) + 1.5).clamp(0, 1)

    def blinds(self, point: Vec, panes: int) -> Tensor:
        """Light [n] that a window of ``panes`` x ``panes + 1`` panes in the way lets through."""
        x, y, _ = self._project(point)
        total = torch.ones_like(x)
        for value, count in ((x, panes), (y, panes + 1)):
            cell = (value * 1.1 + 0.5) * count
            bar = (((cell - cell.floor()) - 0.5).abs() - 0.42) * 30
            total = total * (1 - bar.clamp(0, 1)) * ((0.5 - (value * 1.1).abs()) * 25 + 0.5).clamp(0, 1)
        return total


def _sky_directions() -> Array:
    # A Fibonacci spiral, cosine-distributed over the upper half: the same directions for every world.
    index = np.arange(SKY_LIGHTS) + 0.5
    up = np.sqrt(1 - index / SKY_LIGHTS * 0.97)
    angle = index * 2.399963
    flat = np.sqrt(1 - up**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), up], -1)


def _casters(placed: list[Placed]) -> list[Placed]:
    result = []
    for part in placed:
        keep = np.flatnonzero(part.casts)
        if len(keep):
            arrays = {k: v[keep] for k, v in vars(part).items() if isinstance(v, np.ndarray)}
            result.append(Placed(part.family, **arrays))
    return result


class Shader:
    """Turns surfaces of one world into linear radiance.

    Args:
        world: what to light.
        side: resolution of the sun's shadow map; the sky's are a quarter of it.
    """

    def __init__(self, world: World, side: int) -> None:
        self.light = world.light
        self.atlas = Atlas(world.textures)
        casters = _casters(list(world.placed))
        center, radius = self.light.center, self.light.radius
        self.sun = ShadowMap(casters, self.light.sun_direction, center, radius, side)
        self.sky = [ShadowMap(casters, d, center, radius, max(side // 4, 64)) for d in _sky_directions()]
        panorama = torch.from_numpy(world.panorama).permute(2, 0, 1)
        self.panorama = F.pad(panorama[None], (1, 1, 0, 0), mode="circular")
        soft = F.avg_pool2d(panorama[None], 16)
        self.soft_panorama = F.pad(soft, (1, 1, 0, 0), mode="circular")
        self.horizon = panorama[:, panorama.shape[1] // 2 - 10].mean(-1)

    def surroundings(self, direction: Vec, soft: bool = False) -> Tensor:
        """Radiance [3, n] of the far surroundings along unit ``direction``."""
        image = self.soft_panorama if soft else self.panorama
        width = image.shape[-1]
        x = torch.atan2(direction[1], direction[0]) / torch.pi * ((width - 2) / width)
        y = torch.asin(direction[2].clamp(-1, 1)) * (-2 / torch.pi)
        grid = torch.stack([x, y], -1)[None, None]
        return F.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0]

    def shade(self, surface: Surface, depth: Tensor, direction: Vec, spacing: float, phase: int) -> Tensor:
        """Radiance of n surfaces.

        Args:
            surface: what was hit.
            depth: [n] camera depth; direction: unit view directions; spacing: sample distance at depth 1.
            phase: which of the samples of a pixel this is; samples share the sky lights among them.

        Returns:
            [3, n].
        """
        paint = surface.paint.T.contiguous()
        facing = -dot(surface.normal, direction)
        footprint = depth * spacing / facing.clamp_min(0.15).sqrt() / torch.minimum(paint[1], paint[2])
        u, v = surface.uv[0] / paint[1] + paint[8], surface.uv[1] / paint[2] + paint[9]
        texture = paint[0].long()
        looked = self.atlas.sample(texture, u, v, footprint)
        albedo = looked[:3] * paint[3:6]
        normal = self._bumped(surface, looked, facing)
        sunlit = self._sunlight(surface, phase)
        radiance = albedo * (self._diffuse(surface, normal, sunlit, phase) + paint[7])
        radiance = radiance + self._specular(surface, normal, direction, paint[6], sunlit)
        if self.light.haze:
            clear = torch.exp(-self.light.haze * depth)
            radiance = radiance * clear + self.horizon[:, None] * (1 - clear)
        return radiance

    def _bumped(self, surface: Surface, looked: Tensor, facing: Tensor) -> Vec:
        across = cross(surface.normal, surface.tangent)
        fade = facing.clamp(0, 0.3) / 0.3
        a, b = looked[3] * fade, looked[4] * fade
        n, t = surface.normal, surface.tangent
        return normalised(tuple(n[i] - a * t[i] - b * across[i] for i in range(3)))

    def _sunlight(self, surface: Surface, phase: int) -> Tensor:
        visible = self.sun.lit(surface.point, surface.normal, self.light.softness, phase)
        if self.light.blinds:
            visible = visible * self.sun.blinds(surface.point, self.light.blinds)
        return visible * (dot(surface.normal, self.sun.to_light) > 0)

    def _diffuse(self, surface: Surface, normal: Vec, sunlit: Tensor, phase: int) -> Tensor:
        open_sky, weight = torch.zeros_like(sunlit), torch.full_like(sunlit, 1e-3)
        for sky in self.sky[phase % 5 :: 5]:
            cosine = dot(surface.normal, sky.to_light)
            share = (cosine + 0.25).clamp_min(0)
            open_sky += share * sky.seen(surface.point, surface.normal)
            weight += share
        access = 0.25 + 0.75 * open_sky / weight
        up = 0.5 + 0.5 * normal[2]
        light = self.light
        sky_color, ground, sun = (torch.tensor(c).float()[:, None] for c in (light.sky, light.ground, light.sun))
        direct = dot(normal, self.sun.to_light).clamp_min(0) * sunlit
        return sun * direct + (ground + (sky_color - ground) * up) * access

    def _specular(self, surface: Surface, normal: Vec, direction: Vec, gloss: Tensor, sunlit: Tensor) -> Tensor:
        mirror = along(direction, normal, -2 * dot(direction, normal))
        facing = (-dot(direction, normal)).clamp(0, 1)
        fresnel = 0.04 + 0.96 * (1 - facing) ** 5 * gloss
        power = torch.exp2(2 + 8 * gloss)
        lobe = dot(mirror, self.sun.to_light).clamp(1e-4, 1) ** power * (power + 2) * 0.06
        sun = torch.tensor(self.light.sun).float()[:, None]
        reflected = self.surroundings(normalised(mirror), soft=True) * (mirror[2] > -0.2).float()
        return gloss * (fresnel * reflected + 0.12 * sun * (lobe * sunlit))
