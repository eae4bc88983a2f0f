"""The compiled rasteriser against the float64 reference: pictures and every gradient.

Blending decides (alpha >= 1/255, transmittance > 1e-4, alpha <= max_alpha), and float32 may decide otherwise where a
value lies within rounding of its threshold. Pixels with such a value (`undecided`, usually a handful) are left out of
the comparison of pictures, and get no cotangent in that of gradients.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learn2splat import native
from learn2splat.cameras import Cameras
from learn2splat.native import loader
from learn2splat.render.base import (
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    BackendMissingError,
    GradientRequest,
    RenderOutput,
    RenderSettings,
    SceneGradients,
)
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.projection import project
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from tests.conftest import random_scene, ring_cameras
from tests.render.catalogue import SCENES, crowded, needles, one_gaussian, opaque, ordinary, shifted

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")

EVERYTHING = GradientRequest(means2d_px=True, view_squares=True, per_view=True)
IMAGE_TOLERANCE = 3e-6
GRADIENT_TOLERANCE = 1e-5  # relative to the largest entry of the group
NEEDLE_TOLERANCE = 1e-4  # needles of 1 : 8000: in float32 the screen covariance barely knows the short axes


def to64(scene: GaussianScene, cameras: Cameras) -> tuple[GaussianScene, Cameras]:
    return scene.to(dtype=torch.float64), cameras.to(dtype=torch.float64)


def to32(scene: GaussianScene, cameras: Cameras) -> tuple[GaussianScene, Cameras]:
    return scene.to(dtype=torch.float32), cameras.to(dtype=torch.float32)


def undecided(scene: GaussianScene, cameras: Cameras, settings: RenderSettings, band: float = 1e-4) -> Tensor:
    """[V, H, W] bool: some decision of the pixel is within a relative ``band`` of its threshold."""
    scene, cameras = to64(scene, cameras)
    width, height = cameras.width, cameras.height
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    result = []
    for K, pose in zip(cameras.K, cameras.cam_from_world, strict=True):
        seen = project(scene, K, pose, (width, height), settings, 0)
        drawn = torch.nonzero(seen.half_widths_px[:, 0] > 0)[:, 0]
        drawn = drawn[torch.argsort(seen.depths[drawn].float(), stable=True)]
        dx, dy = seen.means2d_px[drawn, 0] - x[..., None], seen.means2d_px[drawn, 1] - y[..., None]
        xx, xy, yy = seen.conics[drawn].unbind(-1)
        alpha = seen.opacities[drawn] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
        clamped = alpha.clamp_max(settings.max_alpha)
        after = torch.cumprod(1 - torch.where(clamped >= MIN_ALPHA, clamped, torch.zeros_like(clamped)), dim=-1)
        reached = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1) > MIN_TRANSMITTANCE
        near = (after / MIN_TRANSMITTANCE - 1).abs() < 100 * band  # a product of many roundings
        for threshold in (MIN_ALPHA, settings.max_alpha):
            near |= (alpha / threshold - 1).abs() < band
        result.append((near & reached).any(dim=-1))
    return torch.stack(result)


def cotangents(cameras: Cameras, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random derivatives by image, alpha and depth."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(cameras), cameras.height, cameras.width)
    return (
        torch.randn(*shape, 3, generator=generator),
        torch.randn(shape, generator=generator),
        torch.randn(shape, generator=generator),
    )


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """Largest difference relative to the largest entry."""
    assert actual.shape == expected.shape, name
    if expected.numel() == 0:
        return
    error = float((actual.double() - expected).abs().max())
    size = float(expected.abs().max())
    assert error <= tolerance * size + 1e-12, f"{name}: error {error:.2e}, largest entry {size:.2e}"


def assert_scene_close(actual: GaussianScene, expected: GaussianScene, tolerance: float, name: str) -> None:
    for (group, mine), (_, theirs) in zip(actual.items(), expected.items(), strict=True):
        assert_close(mine, theirs, tolerance, f"{name}.{group}")


def assert_output_close(output: RenderOutput, expected: RenderOutput, excluded: Tensor) -> None:
    decided = ~excluded
    assert decided.float().mean() > 0.8, "the comparison would be of few pixels"
    for name in ("image", "alpha", "depth"):
        mine, theirs = getattr(output, name), getattr(expected, name)
        size = max(1.0, float(theirs.abs().max()))
        error = float((mine.double() - theirs)[decided].abs().max())
        assert error <= IMAGE_TOLERANCE * size, f"{name}: {error:.2e} of {size:.2e}"
    assert torch.equal(output.radii_px, expected.radii_px)


def gradients(renderer: CpuRenderer | ReferenceRenderer, scene: GaussianScene, cameras: Cameras) -> SceneGradients:
    _, pull_back = renderer.linearise(scene, cameras)
    return pull_back(cotangents(cameras)[0].to(scene.means.dtype), request=EVERYTHING)


def bits(result: RenderOutput | SceneGradients) -> list[Tensor]:
    """All tensors of a result, scenes flattened."""
    flat: list[Tensor] = []
    for part in vars(result).values():
        scenes = part if isinstance(part, tuple) else (part,)
        for item in scenes:
            flat += list(item.tensors()) if isinstance(item, GaussianScene) else [item] if item is not None else []
    return flat


@pytest.mark.parametrize("make", SCENES, ids=lambda make: make.__name__)
def test_pictures_and_all_gradients_are_those_of_the_reference(make) -> None:
    scene, cameras = to32(*make())
    scene64, cameras64 = to64(scene, cameras)
    background = torch.tensor([0.2, 0.4, 0.6])
    output, pull_back = CpuRenderer().linearise(scene, cameras, background=background, depth=True)
    expected, reference = ReferenceRenderer().linearise(scene64, cameras64, background=background.double(), depth=True)
    excluded = undecided(scene, cameras, RenderSettings())
    assert_output_close(output, expected, excluded)

    image, alpha, depth = cotangents(cameras)
    image, alpha, depth = image * ~excluded[..., None], alpha * ~excluded, depth * ~excluded
    mine = pull_back(image, alpha, depth, EVERYTHING)
    theirs = reference(image.double(), alpha.double(), depth.double(), EVERYTHING)
    tolerance = NEEDLE_TOLERANCE if make is needles else GRADIENT_TOLERANCE
    assert_scene_close(mine.scene, theirs.scene, tolerance, "sum")
    assert_scene_close(mine.view_squares, theirs.view_squares, 2 * tolerance, "view_squares")
    for view, (one, other) in enumerate(zip(mine.per_view, theirs.per_view, strict=True)):
        assert_scene_close(one, other, tolerance, f"view {view}")
    assert_close(mine.means2d_px, theirs.means2d_px, tolerance, "means2d_px")


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_above_the_active_degree_count_for_nothing(degree: int) -> None:
    scene, cameras = to32(*ordinary())
    output, pull_back = CpuRenderer().linearise(scene, cameras, sh_degree=degree)
    short, pull_back_short = CpuRenderer().linearise(scene.with_sh_degree(degree), cameras)
    assert torch.equal(output.image, short.image)
    cotangent = cotangents(cameras)[0]
    mine, theirs = pull_back(cotangent).scene, pull_back_short(cotangent).scene
    used = (degree + 1) ** 2
    assert torch.equal(mine.sh[:, :used], theirs.sh)
    assert not mine.sh[:, used:].any()
    assert torch.equal(mine.means, theirs.means)


def test_a_degree_that_is_not_stored_is_refused() -> None:
    scene, cameras = to32(random_scene(3, degree=1), ring_cameras(1))
    with pytest.raises(ValueError, match=r"degrees 0\.\.1"):
        CpuRenderer().render(scene, cameras, sh_degree=2)


def test_no_gaussians_show_the_background() -> None:
    scene, cameras = to32(random_scene(0), ring_cameras(2))
    background = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    output, pull_back = CpuRenderer().linearise(scene, cameras, background=background, depth=True)
    assert torch.equal(output.image, background[:, None, None].expand_as(output.image))
    assert not output.alpha.any()
    assert not output.depth.any()
    result = pull_back(torch.ones_like(output.image), request=EVERYTHING)
    assert all(tensor.shape[0] == 0 for tensor in result.scene.tensors())
    assert result.means2d_px.shape == (2, 0, 2)


def test_each_view_has_its_own_background() -> None:
    scene, cameras = to32(*ordinary())
    background = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    together = CpuRenderer().render(scene, cameras, background=background).image
    for view in range(3):
        alone = CpuRenderer().render(scene, cameras.take([view]), background=background[view]).image
        assert torch.equal(together[view], alone[0])


def test_view_squares_are_the_squares_of_single_view_gradients() -> None:
    scene, cameras = to32(*ordinary())
    cotangent = cotangents(cameras)[0]
    result = gradients(CpuRenderer(), scene, cameras)
    alone = [
        CpuRenderer().linearise(scene, cameras.take([view]))[1](cotangent[view : view + 1]).scene for view in range(3)
    ]
    for view in range(3):
        for mine, theirs in zip(result.per_view[view].tensors(), alone[view].tensors(), strict=True):
            assert torch.equal(mine, theirs)
    expected = alone[0].map(lambda *views: sum(view.double().square() for view in views), *alone[1:])
    assert_scene_close(result.view_squares, expected, GRADIENT_TOLERANCE, "view_squares")


def test_autograd_gives_the_pullback() -> None:
    scene, cameras = to32(*ordinary())
    image, alpha, depth = cotangents(cameras)
    leaves = scene.map(lambda tensor: tensor.clone().requires_grad_(True))
    output = CpuRenderer().render(leaves, cameras, depth=True)
    ((output.image * image).sum() + (output.alpha * alpha).sum() + (output.depth * depth).sum()).backward()
    expected = CpuRenderer().linearise(scene, cameras, depth=True)[1](image, alpha, depth).scene
    for leaf, gradient in zip(leaves.tensors(), expected.tensors(), strict=True):
        assert torch.equal(leaf.grad, gradient)


def test_autograd_through_alpha_alone() -> None:
    scene, cameras = to32(*ordinary())
    leaves = scene.map(lambda tensor: tensor.clone().requires_grad_(True))
    CpuRenderer().render(leaves, cameras).alpha.sum().backward()
    assert leaves.logit_opacities.grad.abs().max() > 0
    assert not leaves.sh.grad.any()


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, cameras = to32(random_scene(500), ring_cameras(2, 75, 50))
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(loader, "thread_count", lambda work, count=count: count)
        output, pull_back = CpuRenderer().linearise(scene, cameras, depth=True)
        results.append(bits(output) + bits(pull_back(*cotangents(cameras), EVERYTHING)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.fixture
def choose_instruction_set(monkeypatch: pytest.MonkeyPatch):
    def choose(name: str) -> None:
        monkeypatch.setenv("LEARN2SPLAT_ISA", name)
        loader._loaded.cache_clear()
        if native.library() is None:
            pytest.skip(f"{name} was not built for this machine")

    yield choose
    monkeypatch.undo()
    loader._loaded.cache_clear()


@pytest.mark.parametrize("make", [ordinary, needles, opaque, crowded, one_gaussian], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", list(loader.INSTRUCTION_SETS))
def test_every_instruction_set_agrees_with_the_reference(name: str, make, choose_instruction_set) -> None:
    if not loader.INSTRUCTION_SETS[name] <= loader._cpu_flags():
        pytest.skip(f"this CPU is not {name}")
    choose_instruction_set(name)
    test_pictures_and_all_gradients_are_those_of_the_reference(make)


def test_tensors_of_other_kinds_are_refused() -> None:
    scene, cameras = ordinary()
    with pytest.raises(TypeError, match="float32"):
        CpuRenderer().render(scene, cameras)


def test_strided_tensors_are_read_correctly() -> None:
    scene, cameras = to32(*ordinary())
    strided = scene.map(lambda tensor: torch.stack([tensor, tensor + 1], dim=-1)[..., 0])
    assert not strided.means.is_contiguous()
    cotangent = cotangents(cameras)[0]
    output, pull_back = CpuRenderer().linearise(scene, cameras)
    other, pull_back_other = CpuRenderer().linearise(strided, cameras)
    assert torch.equal(output.image, other.image)
    backwards = cotangent.flip(1).contiguous().flip(1)
    assert torch.equal(pull_back(cotangent).scene.sh, pull_back_other(backwards).scene.sh)


def test_a_scene_changed_after_rendering_is_noticed() -> None:
    scene, cameras = to32(*ordinary())
    output, pull_back = CpuRenderer().linearise(scene, cameras)
    scene.means.add_(0.1)
    with pytest.raises(RuntimeError, match="changed in place"):
        pull_back(torch.ones_like(output.image))


def test_works_in_inference_mode() -> None:
    scene, cameras = to32(*ordinary())
    cotangent = cotangents(cameras)[0]
    expected = CpuRenderer().linearise(scene, cameras)[1](cotangent).scene
    with torch.inference_mode():
        _, pull_back = CpuRenderer().linearise(scene, cameras)
        assert torch.equal(pull_back(cotangent).scene.means, expected.means)


@pytest.mark.parametrize("name", ["means", "log_scales", "quats", "logit_opacities"])
def test_a_gaussian_that_is_not_a_number_is_not_drawn(name: str) -> None:
    scene, cameras = to32(*ordinary())
    broken = shifted(scene, slice(0, 1), **{name: float("nan")})
    output, pull_back = CpuRenderer().linearise(broken, cameras)
    assert not output.radii_px[:, 0].any()
    assert torch.equal(output.image, CpuRenderer().render(scene.take(torch.arange(1, 250)), cameras).image)
    assert bool(pull_back(torch.ones_like(output.image)).scene.take(torch.arange(1, 250)).is_finite())


def test_a_cotangent_of_the_wrong_shape_is_refused() -> None:
    scene, cameras = to32(*ordinary())
    _, pull_back = CpuRenderer().linearise(scene, cameras)
    with pytest.raises(ValueError, match="cotangent of image"):
        pull_back(torch.ones(1, 4, 4, 3))


def test_without_a_library_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_loaded", lambda: (None, "", "it was not built"))
    with pytest.raises(BackendMissingError, match="compiler"):
        CpuRenderer()


def test_renderings_free_their_memory() -> None:
    scene, cameras = to32(*ordinary())
    freed = []

    class Spy:
        def __getattr__(self, name: str):
            if name == "l2s_free":
                return lambda handle: freed.append(handle) or native.library().l2s_free(handle)
            return getattr(native.library(), name)

    leaves = scene.map(lambda tensor: tensor.clone().requires_grad_(True))
    output = CpuRenderer().render(leaves, cameras)
    rendering = output.image.grad_fn.rendering
    rendering._library = Spy()
    del rendering, output
    assert len(freed) == 1


def test_edge_tiles_do_not_see_what_an_earlier_gradient_left_behind() -> None:
    """Pixels beyond the image carry no cotangent, whatever the workspace was used for before."""
    scene, large = to32(random_scene(60, seed=11), ring_cameras(1, 64, 64))
    small = large.resized(torch.tensor([37]), torch.tensor([21]))

    def gradient(cameras: Cameras, size: float) -> GaussianScene:
        output, pull_back = CpuRenderer().linearise(scene, cameras, depth=True)
        assert output.depth is not None
        like = (output.image, output.alpha, output.depth)
        return pull_back(*(torch.full_like(picture, size) for picture in like)).scene

    gradient(large, 1e30)
    after = gradient(small, 1.0)
    reference, pull_back = ReferenceRenderer().linearise(*to64(scene, small), depth=True)
    assert reference.depth is not None
    like = (reference.image, reference.alpha, reference.depth)
    expected = pull_back(*(torch.ones_like(picture) for picture in like)).scene
    for name, tensor in expected.items():
        torch.testing.assert_close(
            getattr(after, name).double(), tensor, rtol=0, atol=1e-4 * float(tensor.abs().max()), msg=name
        )
