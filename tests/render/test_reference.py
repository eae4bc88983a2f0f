"""The reference renderer against closed forms, brute force and finite differences, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from learn2splat.cameras import Cameras
from learn2splat.render.base import MIN_ALPHA, MIN_TRANSMITTANCE, GradientRequest, RenderSettings
from learn2splat.render.projection import project
from learn2splat.render.reference import TILE, ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene, rgb_to_sh0
from learn2splat.scene.harmonics import sh_basis
from tests.conftest import random_scene, ring_cameras

REQUEST = GradientRequest(means2d_px=True, view_squares=True, per_view=True)


def one_gaussian(depth: float = 2.0, scale: float = 0.1, logit: float = 0.5) -> GaussianScene:
    return GaussianScene(
        means=torch.tensor([[0.0, 0.0, depth]], dtype=torch.float64),
        log_scales=torch.full((1, 3), math.log(scale), dtype=torch.float64),
        quats=torch.tensor([[2.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
        logit_opacities=torch.tensor([logit], dtype=torch.float64),
        sh=rgb_to_sh0(torch.tensor([[[0.2, 0.5, 0.9]]], dtype=torch.float64)),
    )


def front_camera(size: int = 32, focal: float = 40.0) -> Cameras:
    K = torch.tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]], dtype=torch.float64)
    return Cameras.of_one_size(K, torch.eye(4, dtype=torch.float64)[None], size, size)


def test_one_isotropic_gaussian_has_its_closed_form() -> None:
    depth, scale, size, focal = 2.0, 0.1, 32, 40.0
    background = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    output = ReferenceRenderer().render(one_gaussian(depth, scale), front_camera(), background=background, depth=True)
    variance = (focal * scale / depth) ** 2 + 0.3
    axis = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    squared = axis[:, None] ** 2 + axis[None, :] ** 2
    alpha = torch.sigmoid(torch.tensor(0.5, dtype=torch.float64)) * torch.exp(-0.5 * squared / variance)
    alpha = torch.where(alpha >= MIN_ALPHA, alpha, torch.zeros_like(alpha))
    color = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(output.alpha[0], alpha, rtol=0, atol=1e-14)
    expected = alpha[..., None] * color + (1 - alpha)[..., None] * background
    torch.testing.assert_close(output.image[0], expected, rtol=0, atol=1e-14)
    assert output.depth is not None
    torch.testing.assert_close(output.depth[0], alpha * depth, rtol=0, atol=1e-14)


def brute_force(scene: GaussianScene, cameras: Cameras, settings: RenderSettings) -> torch.Tensor:
    """Image [V, H, W, 3]: pixel by pixel, Gaussian by Gaussian, in plain Python."""
    width, height = cameras.width, cameras.height
    image = torch.zeros(len(cameras), height, width, 3, dtype=torch.float64)
    for v in range(len(cameras)):
        e = project(scene, cameras.K[v], cameras.cam_from_world[v], (width, height), settings, scene.sh_degree)
        order = sorted(range(len(scene)), key=lambda g: float(e.depths[g].float()))
        order = [g for g in order if int(e.half_widths_px[g, 0]) > 0]
        for y in range(height):
            for x in range(width):
                transmittance = 1.0
                for g in order:
                    cx, cy = e.means2d_px[g].tolist()
                    hx, hy = e.half_widths_px[g].tolist()
                    tx, ty = x // TILE, y // TILE
                    in_x = math.floor((cx - hx) / TILE) <= tx < math.ceil((cx + hx) / TILE)
                    in_y = math.floor((cy - hy) / TILE) <= ty < math.ceil((cy + hy) / TILE)
                    if not (in_x and in_y):
                        continue
                    a, b, c = e.conics[g].tolist()
                    dx, dy = cx - x - 0.5, cy - y - 0.5
                    alpha = min(
                        settings.max_alpha,
                        float(e.opacities[g]) * math.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy),
                    )
                    if alpha < MIN_ALPHA:
                        continue
                    if transmittance * (1 - alpha) <= MIN_TRANSMITTANCE:
                        break
                    image[v, y, x] += transmittance * alpha * e.colors[g]
                    transmittance *= 1 - alpha
    return image


def test_image_equals_brute_force() -> None:
    scene = random_scene(40, seed=3)
    scene = GaussianScene(scene.means, scene.log_scales, scene.quats, scene.logit_opacities + 2, scene.sh)
    cameras = ring_cameras(2, width=35, height=21)
    renderer = ReferenceRenderer()
    expected = brute_force(scene, cameras, renderer.settings)
    assert expected.mean() > 0.02
    torch.testing.assert_close(renderer.render(scene, cameras).image, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 3])
def test_gradients_equal_finite_differences(degree: int) -> None:
    """Central differences; thresholds are steps, so directions that cross one are kept away by a small step."""
    scene, cameras = random_scene(6, seed=degree + 1, degree=degree), ring_cameras(2, 24, 18)
    renderer, generator = ReferenceRenderer(), torch.Generator().manual_seed(0)
    output, pullback = renderer.linearise(scene, cameras, depth=True)
    assert output.depth is not None

    def cotangent(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    u_image, u_alpha, u_depth = cotangent(output.image), cotangent(output.alpha), cotangent(output.depth)

    def objective(candidate: GaussianScene) -> float:
        out = renderer.render(candidate, cameras, depth=True)
        assert out.depth is not None
        return float((out.image * u_image).sum() + (out.alpha * u_alpha).sum() + (out.depth * u_depth).sum())

    gradients = pullback(u_image, u_alpha, u_depth).scene
    step = 1e-7
    for name, gradient in gradients.items():
        for _ in range(4):
            direction = cotangent(gradient)
            plus, minus = dict(scene.items()), dict(scene.items())
            plus[name], minus[name] = plus[name] + step * direction, minus[name] - step * direction
            numeric = (objective(GaussianScene(**plus)) - objective(GaussianScene(**minus))) / (2 * step)
            assert numeric == pytest.approx(float((gradient * direction).sum()), rel=2e-5, abs=1e-5), name


def test_requested_gradients_agree_with_each_other() -> None:
    scene, cameras = random_scene(12), ring_cameras(3)
    renderer, generator = ReferenceRenderer(), torch.Generator().manual_seed(0)
    output, pullback = renderer.linearise(scene, cameras)
    cotangent = torch.randn(output.image.shape, generator=generator, dtype=torch.float64)
    gradients = pullback(cotangent, request=REQUEST)
    assert gradients.per_view is not None
    assert gradients.view_squares is not None
    assert gradients.means2d_px is not None
    for name, total in gradients.scene.items():
        views = [getattr(view, name) for view in gradients.per_view]
        torch.testing.assert_close(sum(views), total, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            sum(view.square() for view in views), getattr(gradients.view_squares, name), rtol=1e-9, atol=1e-12
        )
    for v in range(3):
        single, single_pullback = renderer.linearise(scene, cameras.take([v]))
        alone = single_pullback(cotangent[v : v + 1], request=GradientRequest(means2d_px=True))
        assert alone.means2d_px is not None
        torch.testing.assert_close(alone.means2d_px[0], gradients.means2d_px[v])
        torch.testing.assert_close(single.image[0], output.image[v])


def test_screen_gradient_is_the_derivative_by_the_principal_point() -> None:
    """Moving every projected centre by dx is moving the principal point by dx, but for the Jacobian's clamp."""
    scene, cameras = random_scene(8, spread=0.3), ring_cameras(1)
    renderer = ReferenceRenderer()
    output, pullback = renderer.linearise(scene, cameras)
    weights = torch.randn(output.image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    screen = pullback(weights, request=GradientRequest(means2d_px=True)).means2d_px
    assert screen is not None
    step = 1e-6
    for axis in range(2):
        values = []
        for sign in (1, -1):
            K = cameras.K.clone()
            K[0, axis, 2] += sign * step
            moved = Cameras(K, cameras.cam_from_world, cameras.widths, cameras.heights)
            values.append(float((renderer.render(scene, moved).image * weights).sum()))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(screen[0, :, axis].sum()), rel=1e-5)


def test_rotating_the_world_changes_nothing_for_diffuse_scenes() -> None:
    scene, cameras = random_scene(20, degree=0), ring_cameras(2)
    half = torch.tensor(0.4, dtype=torch.float64)
    qw, qz = half.cos(), half.sin()
    rotation = torch.tensor(
        [[(2 * half).cos(), -(2 * half).sin(), 0], [(2 * half).sin(), (2 * half).cos(), 0], [0, 0, 1]],
        dtype=torch.float64,
    )
    w, x, y, z = scene.quats.unbind(-1)
    quats = torch.stack([qw * w - qz * z, qw * x - qz * y, qw * y + qz * x, qw * z + qz * w], dim=-1)
    turned = GaussianScene(scene.means @ rotation.T, scene.log_scales, quats, scene.logit_opacities, scene.sh)
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = rotation
    moved = Cameras(cameras.K, cameras.cam_from_world @ world.T, cameras.widths, cameras.heights)
    renderer = ReferenceRenderer()
    torch.testing.assert_close(
        renderer.render(turned, moved).image, renderer.render(scene, cameras).image, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("depth", [-1.0, 0.005, 1e11])
def test_what_lies_outside_near_and_far_is_dropped_without_nan(depth: float) -> None:
    scene = one_gaussian(depth)
    output, pullback = ReferenceRenderer().linearise(scene, front_camera())
    assert not output.visible.any()
    assert float(output.image.abs().max()) == 0
    assert pullback(torch.ones_like(output.image)).scene.is_finite()


def test_empty_scene_shows_the_background() -> None:
    scene = random_scene(0)
    background = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
    output = ReferenceRenderer().render(scene, ring_cameras(2), background=background)
    torch.testing.assert_close(output.image, background.expand_as(output.image))


def test_harmonics_are_orthonormal() -> None:
    """On a Gauss-Legendre x uniform grid that integrates degree 6 exactly."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(8)
    z = torch.from_numpy(nodes)[:, None].expand(8, 16)
    phi = torch.arange(16, dtype=torch.float64)[None] * (2 * math.pi / 16)
    radius = (1 - z**2).sqrt()
    basis = sh_basis(torch.stack([radius * phi.cos(), radius * phi.sin(), z], dim=-1), 3).reshape(-1, 16)
    area = (torch.from_numpy(weights)[:, None].expand(8, 16) * (2 * math.pi / 16)).reshape(-1)
    torch.testing.assert_close(basis.T @ (basis * area[:, None]), torch.eye(16, dtype=torch.float64))
