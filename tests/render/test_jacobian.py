"""J v, J^T u and diag(J^T W J): one linear map, the same in every renderer, and the derivative of the pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat import native
from learn2splat.cameras import Cameras
from learn2splat.render import jacobian
from learn2splat.render.base import Renderer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.jacobian import BLOCK_SIDE, TILE, AutogradJacobian, DifferenceJacobian
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix
from tests.conftest import random_scene, ring_cameras
from tests.render.catalogue import SCENES, needles, opaque, ordinary

needs_library = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
BACKGROUND = torch.tensor([0.3, 0.9, 0.1], dtype=torch.float64)


def direction(scene: GaussianScene, seed: int = 3) -> GaussianScene:
    generator = torch.Generator().manual_seed(seed)
    return scene.map(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t))


def picture(cameras: Cameras, seed: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(cameras), cameras.height, cameras.width, 3)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(cameras.K)


def dot(one: GaussianScene, two: GaussianScene) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one.tensors(), two.tensors(), strict=True))


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-12))


def smooth_scene(count: int = 12, degree: int = 2) -> GaussianScene:
    """Few decisions nearby: wide, faint Gaussians, so that a finite difference crosses next to none."""
    scene = random_scene(count, seed=11, degree=degree)
    return GaussianScene(scene.means, scene.log_scales + 0.8, scene.quats, scene.logit_opacities - 1, scene.sh)


def test_j_v_is_the_finite_difference_in_float64() -> None:
    scene, cameras = smooth_scene(), ring_cameras(2)
    render, way = ReferenceRenderer().render, direction(scene)
    moved = ReferenceRenderer().jacobian(scene, cameras, background=BACKGROUND).push_forward(way)
    step = 1e-6
    ahead, behind = (
        render(scene.map(lambda at, v, h=h: at + h * v, way), cameras, background=BACKGROUND).image
        for h in (step, -step)
    )
    errors = (moved - (ahead - behind) / (2 * step)).abs()
    jumped = errors > 1e-3 * float(moved.abs().max())  # a pixel whose alpha crosses 1/255 between the two
    assert float(jumped.double().mean()) < 1e-3
    assert float(errors[~jumped].max()) < 1e-6 * float(moved.abs().max())


@pytest.mark.parametrize("make", [ReferenceRenderer, pytest.param(CpuRenderer, marks=needs_library)])
@pytest.mark.parametrize("case", SCENES)
def test_both_products_belong_to_one_map(make: type, case: object) -> None:
    """<u, J v> = <J^T u, v>, relative to the sum of the products' sizes."""
    scene, cameras = case()  # type: ignore[operator]
    renderer: Renderer = make()
    dtype = torch.float64 if renderer.capabilities.float64 else torch.float32
    scene, cameras = scene.to(dtype=dtype), cameras.to(dtype=dtype)
    way, u = direction(scene), picture(cameras)
    linear = renderer.jacobian(scene, cameras, background=BACKGROUND.to(dtype))
    pushed, pulled = linear.push_forward(way), linear.pull_back(u)
    left, right = float((u.double() * pushed.double()).sum()), dot(pulled, way)
    size = float((u.double() * pushed.double()).abs().sum())
    assert abs(left - right) <= (1e-12 if dtype == torch.float64 else 1e-6) * size


@needs_library
@pytest.mark.parametrize("case", SCENES)
def test_j_v_agrees_with_the_reference(case: object) -> None:
    """Where both take the same decisions, which a few pixels may not."""
    scene, cameras = case()  # type: ignore[operator]
    way = direction(scene)
    expected = ReferenceRenderer().jacobian(scene, cameras, background=BACKGROUND).push_forward(way)
    single = scene.to(dtype=torch.float32)
    pushed = CpuRenderer().jacobian(single, cameras.to(dtype=torch.float32), background=BACKGROUND.float())
    errors = (pushed.push_forward(way.to(dtype=torch.float32)) - expected).abs() / expected.abs().max()
    assert float(errors.quantile(0.99)) < (1e-4 if case is needles else 1e-5)


def test_the_reference_diagonal_is_that_of_the_dense_matrix() -> None:
    scene, cameras = random_scene(4, seed=2, degree=1), ring_cameras(1, 20, 14)
    renderer = ReferenceRenderer()
    weights = picture(cameras).square()
    leaves = scene.map(lambda t: t.clone().requires_grad_(True))
    image = renderer.render(leaves, cameras, background=BACKGROUND).image.reshape(-1)
    rows = [torch.autograd.grad(value, leaves.tensors(), retain_graph=True) for value in image]
    linear = renderer.jacobian(scene, cameras, background=BACKGROUND)
    diagonal, blocks = linear.blocks(weights)
    for index, (name, entries) in enumerate(diagonal.items()):
        dense = torch.stack([row[index] for row in rows]).square()
        expected = torch.einsum("p,p...->...", weights.reshape(-1), dense)
        torch.testing.assert_close(entries, expected, rtol=1e-9, atol=1e-12, msg=name)
    geometry = torch.cat([torch.stack([row[i] for row in rows]) for i in range(3)], dim=-1)
    torch.testing.assert_close(
        blocks, torch.einsum("p,pni,pnj->nij", weights.reshape(-1), geometry, geometry), rtol=1e-9, atol=1e-12
    )


@needs_library
@pytest.mark.parametrize("degree", [0, 3])
def test_the_compiled_diagonal_and_blocks_are_the_brute_force_ones(degree: int) -> None:
    """Against J's columns one by one, with the compiled J v itself: same decisions, so every entry must agree."""
    scene, cameras = random_scene(23, seed=5, degree=degree, dtype=torch.float32), ring_cameras(2, 40, 28)
    cameras = cameras.to(dtype=torch.float32)
    weights = picture(cameras).square()
    linear = CpuRenderer().jacobian(scene, cameras, background=BACKGROUND.float())
    columns = AutogradJacobian(lambda at: linear.output, scene)
    columns.push_forward = linear.push_forward  # type: ignore[method-assign]
    for given in (None, weights):
        (diagonal, blocks), (expected, expected_blocks) = linear.blocks(given), columns.blocks(given)
        for name, tensor in expected.items():
            assert relative(getattr(diagonal, name), tensor) < 1e-5, name
            assert relative(getattr(linear.diagonal(given), name), tensor) < 1e-5, name
        assert relative(blocks, expected_blocks) < 1e-5


@needs_library
def test_products_do_not_depend_on_threads_nor_on_each_other() -> None:
    scene, cameras = (part.to(dtype=torch.float32) for part in opaque())
    way, u = direction(scene), picture(cameras)

    def products() -> list[Tensor]:
        linear = CpuRenderer().jacobian(scene, cameras)
        first = [linear.push_forward(way), *linear.pull_back(u).tensors(), *linear.diagonal(u.square()).tensors()]
        again = [*linear.pull_back(u).tensors(), linear.push_forward(way)]
        for one, two in zip(again, [*first[1:6], first[0]], strict=True):
            assert torch.equal(one, two)
        return first

    before, threads = products(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        after = products()
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one, two)


def test_the_difference_fallback_approximates_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its sampled diagonal is unbiased: many samples come near."""
    monkeypatch.setattr(jacobian, "DIAGONAL_SAMPLES", 400)
    scene, cameras = smooth_scene(3, degree=0), ring_cameras(1, 20, 14)
    render, way = (lambda at: ReferenceRenderer().render(at, cameras)), direction(scene)
    exact, fallback = ReferenceRenderer().jacobian(scene, cameras), DifferenceJacobian(render, scene, step=1e-5)
    errors = (exact.push_forward(way) - fallback.push_forward(way)).abs()
    assert float(errors.quantile(0.99)) < 1e-6 * float(errors.max() + exact.push_forward(way).abs().max())
    one, (two, blocks) = exact.diagonal(), fallback.blocks()
    torch.testing.assert_close(blocks.diagonal(dim1=-2, dim2=-1), as_matrix(two)[:, :BLOCK_SIDE])
    assert float(two.sh.sum()) == pytest.approx(float(one.sh.sum()), rel=0.25)
    assert torch.equal(fallback.push_forward(way.map(torch.zeros_like)), torch.zeros_like(exact.output.image))


@needs_library
def test_a_changed_scene_and_a_wrong_shape_are_refused() -> None:
    scene, cameras = (part.to(dtype=torch.float32) for part in ordinary())
    linear = CpuRenderer().jacobian(scene, cameras)
    with pytest.raises(ValueError, match="sh"):
        linear.push_forward(scene.with_sh_degree(0))
    with pytest.raises(ValueError, match="weights"):
        linear.diagonal(torch.ones(1, 2, 3))
    scene.means.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        linear.push_forward(scene)


@needs_library
def test_what_is_not_wanted_is_left_out_and_the_rest_is_the_same_to_the_bit() -> None:
    scene, cameras = smooth_scene().to(dtype=torch.float32), ring_cameras(2, 40, 36, dtype=torch.float32)
    linear = CpuRenderer().jacobian(scene, cameras)
    tiles = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    wanted = tiles.repeat_interleave(TILE, dim=1).repeat_interleave(TILE, dim=2)[:, :36, :40]
    whole, part, u = (
        linear.push_forward(direction(scene)),
        linear.push_forward(direction(scene), wanted),
        picture(cameras),
    )
    assert torch.equal(part, whole * wanted[..., None])
    for product in (linear.pull_back, lambda u: linear.diagonal(u.square())):
        inside, outside = product(u * wanted[..., None]), product(u * ~wanted[..., None])
        torch.testing.assert_close(as_matrix(inside) + as_matrix(outside), as_matrix(product(u)), rtol=1e-4, atol=1e-3)
