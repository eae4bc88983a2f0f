"""A capture as a run sees it: what it optimises on, what it holds out, and how it looks at a scene."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from omegaconf import DictConfig
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.config import build
from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.data.views import choose_views, probe_views
from learn2splat.eval.metrics import Scores, ViewMetrics, all_metrics, evaluate
from learn2splat.eval.report import ReportView
from learn2splat.render.base import BackendMissingError, Renderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss


class Capture:
    """Photos, split, renderer and metrics of one configuration; ``notes`` say which metrics cannot be had, and why.

    Args:
        config: as composed from ``configs/optimize.yaml``.
        data: the scene, when it is loaded already.

    Raises:
        UserError: a value or the scene is bad.
        BackendMissingError: the renderer or the device is not there.
    """

    def __init__(self, config: DictConfig, data: SceneData | None = None) -> None:
        if data is None:
            data = load_scene(config.scene, max_size=config.max_size, test_every=config.test_every)
        self.data = data
        self.train, self.test = choose_views(data, str(config.views), config.seed)
        self.probe: list[int] = []
        if config.guard == "on":
            self.train, self.probe = probe_views(data.cameras, self.train)
        self.device, self.renderer = device_and_renderer(config)
        background = torch.tensor(list(config.background), dtype=torch.float32)
        self.loss = SceneLoss(data, self.renderer, build(config.loss), background, self.device)
        self.metrics, self.notes = all_metrics(config.get("lpips"))

    @property
    def split(self) -> str:
        """Which views are evaluated."""
        return "test" if self.test else "train"

    def evaluate(self, scene: GaussianScene) -> Iterator[ViewMetrics]:
        """Every metric on the held-out views, or on those optimised on when none are held out."""
        return evaluate(scene, self.loss, self.test or self.train, self.metrics)

    def explained(self, scene: GaussianScene, view: int, scores: Scores) -> ReportView:
        """An evaluated view of ``scene`` with its photo and rendering, black where masked, and expected depth."""
        cameras, background = self.loss.cameras.take([view]), self.loss.background
        with torch.no_grad():
            found = self.renderer.render(scene, cameras, background=background, depth=True)
        assert found.depth is not None
        depth = torch.where(found.alpha > 0.5, found.depth / found.alpha, torch.nan)[0].cpu()
        photo = self.loss.photos([view])[0].cpu()
        image = self.loss.masked(found.image, [view])[0].clamp(0, 1).cpu()
        return ReportView(self.name(view), photo, image, depth, scores)

    def film(self, scene: GaussianScene, path: Cameras) -> Iterator[Tensor]:
        """Pictures [H, W, 3] in 0..1 of ``scene`` along a path, on the CPU."""
        return film(scene, path.to(self.device), self.renderer, self.loss.background)

    def name(self, view: int) -> str:
        """Of the photo."""
        return str(self.data.image_names[view])


def film(scene: GaussianScene, cameras: Cameras, renderer: Renderer, background: Tensor) -> Iterator[Tensor]:
    """Pictures [H, W, 3] in 0..1 of one camera after the other, on the CPU; everything lies on one device."""
    for number in range(len(cameras)):
        with torch.no_grad():
            yield renderer.render(scene, cameras.take([number]), background=background).image[0].clamp(0, 1).cpu()


def device_and_renderer(config: DictConfig) -> tuple[torch.device, Renderer]:
    """Where and how a configuration renders.

    Raises:
        BackendMissingError: the renderer or the device is not there, or the one does not run on the other.
    """
    device = _device(config.device)
    renderer = build(config.renderer)
    if device.type not in renderer.capabilities.devices:
        raise BackendMissingError(
            f"the renderer {type(renderer).__name__} runs on {'/'.join(renderer.capabilities.devices)}, "
            f"not on {device.type}; leave out --renderer or --device"
        )
    return device, renderer


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendMissingError("device=cuda: this torch sees no CUDA device; use --device cpu, or see `l2s doctor`")
    return torch.device(name)
