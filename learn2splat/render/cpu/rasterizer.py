"""The compiled rasteriser behind the `Renderer` interface."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learn2splat import native
from learn2splat.cameras import Cameras
from learn2splat.native import loader
from learn2splat.render.base import (
    BackendMissingError,
    Capabilities,
    GradientRequest,
    Pullback,
    RenderOptions,
    RenderOutput,
    RenderSettings,
    SceneGradients,
)
from learn2splat.render.jacobian import BLOCK_SIDE, TILE, Jacobian
from learn2splat.scene.gaussians import GaussianScene


class CpuRenderer:
    """The compiled rasteriser: float32 on the CPU, every derivative hand-written, same bits for any thread count.

    Gradients are of first order only. The scene must not be changed in place between a rendering and its gradient.

    Raises:
        BackendMissingError: the library was not built.
    """

    capabilities = Capabilities(devices=("cpu",), per_view_gradients=True, jacobian="exact", curvature_diagonal="exact")

    def __init__(self, settings: RenderSettings = RenderSettings()) -> None:
        if native.library() is None:
            raise BackendMissingError(
                f"the compiled CPU rasteriser is missing ({native.why_missing()}): {native.INSTALL_HINT}, "
                "or use ReferenceRenderer"
            )
        self.settings = settings

    def render(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> RenderOutput:
        def rasterise_at(*parameters: Tensor) -> tuple[RenderOutput, Rendering]:
            return rasterise(GaussianScene(*parameters), cameras, self.settings, **options)

        image, alpha, depth_sum, radii = _Rasterise.apply(rasterise_at, *scene.tensors())
        return RenderOutput(image, alpha, depth_sum, radii)

    def linearise(
        self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]
    ) -> tuple[RenderOutput, Pullback]:
        output, rendering = rasterise(scene, cameras, self.settings, **options)
        return output, rendering.pull_back

    def jacobian(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> Jacobian:
        return _CpuJacobian(*rasterise(scene, cameras, self.settings, **options))


def rasterise(
    scene: GaussianScene,
    cameras: Cameras,
    settings: RenderSettings,
    sh_degree: int | None = None,
    background: Tensor | None = None,
    depth: bool = False,
) -> tuple[RenderOutput, Rendering]:
    """The forward pass; arguments as in `Renderer.render`."""
    degree = scene.sh_degree if sh_degree is None else sh_degree
    if not 0 <= degree <= scene.sh_degree:
        raise ValueError(f"sh_degree is {degree}, but the scene stores degrees 0..{scene.sh_degree}")
    views, n, width, height = len(cameras), len(scene), cameras.width, cameras.height
    threads = loader.thread_count(views * (n + width * height))
    dense = scene.map(_dense)
    c_scene = loader.Scene(*map(_address, dense.tensors()), n, dense.sh.shape[1], degree)
    K, cam_from_world = _host_float(cameras.K), _host_float(cameras.cam_from_world)
    back = None if background is None else _host_float(background.expand(views, 3))
    c_cameras = loader.CameraBatch(_address(K), _address(cam_from_world), _address(back), views, width, height)
    c_settings = loader.Settings(settings.near, settings.far, settings.eps2d, settings.max_alpha)
    output = RenderOutput(
        torch.empty(views, height, width, 3),
        torch.empty(views, height, width),
        torch.empty(views, height, width) if depth else None,
        torch.empty(views, n, dtype=torch.int32),
    )
    images = loader.Images(*map(_address, (output.image, output.alpha, output.depth, output.radii_px)))
    library = _library()
    handle = library.l2s_render(byref(c_scene), byref(c_cameras), byref(c_settings), byref(images), threads)
    if handle is None:
        raise MemoryError(f"rendering {n} Gaussians in {views} views of {width} x {height} px")
    return output, Rendering(handle, scene, dense, c_scene, (views, height, width), depth, threads)


class Rendering:
    """What the gradient of one forward pass needs; its memory is freed when it is collected.

    It does not hold the images, which in autograd hold it.
    """

    def __init__(
        self,
        handle: int,
        scene: GaussianScene,
        dense: GaussianScene,
        c_scene: loader.Scene,
        shape: tuple[int, int, int],
        depth: bool,
        threads: int,
    ) -> None:
        self._library = _library()
        self._handle = handle
        self._given = scene.detach().tensors()  # share the version counters of the caller's tensors
        self._versions = _versions(self._given)
        self._dense = dense
        self._c_scene = c_scene
        self._shape = shape
        self._depth = depth
        self._threads = threads

    def __del__(self) -> None:
        self._library.l2s_free(self._handle)

    def pull_back(
        self,
        image: Tensor,
        alpha: Tensor | None = None,
        depth: Tensor | None = None,
        request: GradientRequest = GradientRequest(),
    ) -> SceneGradients:
        """The `Pullback` of this rendering; may be called any number of times."""
        self._check_unchanged()
        expected = {"image": (image, (*self._shape, 3)), "alpha": (alpha, self._shape), "depth": (depth, self._shape)}
        for name, (cotangent, shape) in expected.items():
            if cotangent is not None and cotangent.shape != shape:
                raise ValueError(f"cotangent of {name} has shape {tuple(cotangent.shape)}, expected {shape}")
        if not self._depth:
            depth = None
        given = [None if cotangent is None else _dense(cotangent) for cotangent in (image, alpha, depth)]
        cotangents = loader.Cotangents(*map(_address, given))

        views, n = self._shape[0], len(self._dense)
        total = self._dense.map(torch.empty_like)
        squares = self._dense.map(torch.empty_like) if request.view_squares else None
        stacked = [t.new_empty(views, *t.shape) for t in self._dense.tensors()] if request.per_view else None
        means2d_px = torch.empty(views, n, 2) if request.means2d_px else None
        gradients = loader.Gradients(
            _c_gradient(total.tensors()),
            _c_gradient(squares.tensors() if squares else None),
            _c_gradient(stacked),
            _address(means2d_px),
        )
        failed = self._library.l2s_pull_back(
            self._handle, byref(self._c_scene), byref(cotangents), byref(gradients), self._threads
        )
        if failed:
            raise MemoryError(f"gradient of {n} Gaussians in {views} views")
        per_view = tuple(GaussianScene(*view) for view in zip(*stacked, strict=True)) if stacked else None
        return SceneGradients(total, means2d_px, squares, per_view)

    def push_forward(self, direction: GaussianScene, wanted: Tensor | None = None) -> Tensor:
        """J v [V, H, W, 3], zero in tiles without ``wanted`` pixels; may be called any number of times."""
        self._check_unchanged()
        for name, tensor in self._dense.items():
            if getattr(direction, name).shape != tensor.shape:
                raise ValueError(
                    f"the direction's {name} are {tuple(getattr(direction, name).shape)}, expected "
                    f"{tuple(tensor.shape)}"
                )
        given = [_dense(tensor) for tensor in direction.tensors()]
        tangent = loader.Tangent(*map(_address, given))
        image, alpha = torch.empty(*self._shape, 3), torch.empty(self._shape)
        images = loader.Images(_address(image), _address(alpha), None, None)
        tiles = None if wanted is None else _tiles(wanted)
        if self._library.l2s_push_forward(
            self._handle, byref(self._c_scene), byref(tangent), byref(images), self._threads, _address(tiles)
        ):
            raise MemoryError(f"derivative of {self._shape[0]} views by {len(self._dense)} Gaussians")
        return image

    def curvature(self, weights: Tensor | None, want_blocks: bool) -> tuple[GaussianScene, Tensor | None]:
        """diag(J^T W J), and on demand its blocks [N, 10, 10]; may be called any number of times."""
        self._check_unchanged()
        if weights is not None and weights.shape != (*self._shape, 3):
            raise ValueError(f"weights have shape {tuple(weights.shape)}, expected {(*self._shape, 3)}")
        given = None if weights is None else _dense(weights)
        diagonal = self._dense.map(torch.empty_like)
        blocks = torch.empty(len(self._dense), BLOCK_SIDE, BLOCK_SIDE) if want_blocks else None
        curvature = loader.Curvature(_c_gradient(diagonal.tensors()), _address(blocks))
        if self._library.l2s_curvature(
            self._handle, byref(self._c_scene), _address(given), byref(curvature), self._threads
        ):
            raise MemoryError(f"curvature of {len(self._dense)} Gaussians in {self._shape[0]} views")
        return diagonal, blocks

    def _check_unchanged(self) -> None:
        if _versions(self._given) != self._versions:
            raise RuntimeError("the scene was changed in place after it was rendered: take the gradient first")

    def statistics(self) -> dict[str, Any]:
        """Work counts and raster times of the last calls, for benchmarks."""
        statistics = loader.Statistics()
        self._library.l2s_statistics(self._handle, byref(statistics))
        return {field[0]: getattr(statistics, field[0]) for field in statistics._fields_}


class _CpuJacobian:
    """`Jacobian` of one rendering."""

    def __init__(self, output: RenderOutput, rendering: Rendering) -> None:
        self.output, self._rendering = output, rendering

    def push_forward(self, direction: GaussianScene, wanted: Tensor | None = None) -> Tensor:
        return self._rendering.push_forward(direction, wanted)

    def pull_back(self, image: Tensor) -> GaussianScene:
        return self._rendering.pull_back(image).scene

    def diagonal(self, weights: Tensor | None = None) -> GaussianScene:
        return self._rendering.curvature(weights, want_blocks=False)[0]

    def blocks(self, weights: Tensor | None = None) -> tuple[GaussianScene, Tensor]:
        diagonal, blocks = self._rendering.curvature(weights, want_blocks=True)
        assert blocks is not None
        return diagonal, blocks


class _Rasterise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rasterise_at: Any, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        output, ctx.rendering = rasterise_at(*parameters)
        ctx.image_shape = output.image.shape
        ctx.mark_non_differentiable(output.radii_px)
        ctx.set_materialize_grads(False)
        return output.image, output.alpha, output.depth, output.radii_px

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, image: Tensor | None, alpha: Tensor | None, depth: Tensor | None, _: None) -> Any:
        if image is None:
            image = torch.zeros(ctx.image_shape)
        return None, *ctx.rendering.pull_back(image, alpha, depth).scene.tensors()


def _library() -> ctypes.CDLL:
    library = native.library()
    assert library is not None  # CpuRenderer's constructor has checked
    return library


def _dense(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise TypeError(
            f"CpuRenderer takes float32 tensors on the CPU, not {tensor.dtype} on {tensor.device}: convert with "
            "`.to('cpu', torch.float32)`, or use ReferenceRenderer for float64"
        )
    return tensor.detach().contiguous()


def _tiles(wanted: Tensor) -> Tensor:
    """[V, tiles down, tiles across] uint8: tiles with any ``wanted`` [V, H, W] pixel."""
    pixels = wanted.to(torch.float32)[:, None]
    return torch.nn.functional.max_pool2d(pixels, TILE, ceil_mode=True)[:, 0].to(torch.uint8).contiguous()


def _versions(tensors: tuple[Tensor, ...]) -> list[int]:
    """Counters that in-place changes increase; tensors of inference mode have none."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def _host_float(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _c_gradient(tensors: Any) -> loader.Gradient:
    return loader.Gradient() if tensors is None else loader.Gradient(*(tensor.data_ptr() for tensor in tensors))
