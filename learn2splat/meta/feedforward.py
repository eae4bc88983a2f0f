"""Training of initialisers: held-out views judge the Gaussians that they predict."""

from __future__ import annotations

import math

import torch

from learn2splat.data.base import SceneData
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.estimator import Memoryless, TaskSource
from learn2splat.predict.base import Initialiser
from learn2splat.render.base import Renderer
from learn2splat.scene_loss import SceneLoss


class TargetEstimator(Memoryless):
    """The exact gradient of the loss on held-out views; no graph goes through the renderer.

    Args:
        tasks: ``train`` are the views that are shown, ``test`` judge.
        renderer: the rasteriser.
        device: where to predict.
    """

    def __init__(self, tasks: TaskSource[SceneData], renderer: Renderer, device: str = "cpu") -> None:
        self.tasks, self.renderer, self.device = tasks, renderer, device

    def accumulate(
        self, initialiser: Initialiser, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        assert isinstance(initialiser, torch.nn.Module)
        initialiser.train()
        losses, deaths = [], 0
        for _ in range(samples):
            loss, gradient_taken = self._one(initialiser, samples, self.tasks.draw(generator))
            losses.append(loss)
            deaths += not gradient_taken
        initialiser.eval()
        return {"loss": sum(losses) / samples, "deaths": deaths}

    def _one(self, initialiser: Initialiser, samples: int, data: SceneData) -> tuple[float, bool]:
        """Loss of one scene, and whether it was finite and its gradient was added."""
        on = SceneLoss(data, self.renderer, PhotometricLoss(), device=self.device)
        scene = initialiser(on.photos(data.train), on.cameras.take(list(data.train))).scene
        judged = on.gradient(scene.detach(), data.test)
        if not math.isfinite(judged.loss):
            return judged.loss, False
        torch.autograd.backward(scene.tensors(), [grad / samples for grad in judged.grads.tensors()])
        return judged.loss, True
