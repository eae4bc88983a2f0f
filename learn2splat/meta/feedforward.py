"""Training of initialisers: held-out views judge the Gaussians that they predict."""

from __future__ import annotations

import math

import torch

from learn2splat.data.base import SceneData
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.estimator import Memoryless, TaskSource
from learn2splat.predict.base import Initialiser
from learn2splat.render.base import Renderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss

Judgement = tuple[float, GaussianScene]
"""A loss, and what counts as its derivative by the predicted Gaussians."""


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
            on = SceneLoss(self.tasks.draw(generator), self.renderer, PhotometricLoss(), device=self.device)
            train = on.data.train
            scene = initialiser(on.photos(train), on.cameras.take(list(train))).scene
            loss, grads = self.judge(on, scene.detach(), generator)
            losses.append(loss)
            if math.isfinite(loss):
                torch.autograd.backward(scene.tensors(), [grad / samples for grad in grads.tensors()])
            else:
                deaths += 1
        initialiser.eval()
        return {"loss": sum(losses) / samples, "deaths": deaths}

    def judge(self, on: SceneLoss, predicted: GaussianScene, generator: torch.Generator) -> Judgement:
        """How good ``predicted`` is for the task of ``on``; a loss that is not finite says that nothing is known."""
        judged = on.gradient(predicted, on.data.test)
        return judged.loss, judged.grads
