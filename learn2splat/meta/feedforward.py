"""Training of initialisers: held-out views judge the Gaussians that they predict, and depths where they are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.estimator import Memoryless, TaskSource
from learn2splat.networks.pyramid import cells
from learn2splat.predict.base import Initialiser, Prediction
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
        depth: weight of `depth_error` at the beginning; it falls linearly to 0, for what counts is how views look.
    """

    def __init__(
        self, tasks: TaskSource[SceneData], renderer: Renderer, device: str = "cpu", depth: float = 0.0
    ) -> None:
        self.tasks, self.renderer, self.device, self.depth = tasks, renderer, device, depth

    def accumulate(
        self, initialiser: Initialiser, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        assert isinstance(initialiser, torch.nn.Module)
        initialiser.train()
        weight = self.depth * (1 - progress)
        losses, errors, deaths = [], [], 0
        for _ in range(samples):
            on = SceneLoss(self.tasks.draw(generator), self.renderer, PhotometricLoss(), device=self.device)
            train = on.data.train
            prediction = initialiser(on.photos(train), on.cameras.take(list(train)))
            scene, error = prediction.scene, depth_error(prediction, on.data)
            errors.append(float(error.detach()))
            loss, grads = self.judge(on, scene.detach(), generator)
            losses.append(loss)
            if math.isfinite(loss):
                judged, credit = list(scene.tensors()), [grad / samples for grad in grads.tensors()]
                if error.requires_grad:
                    judged.append(error)
                    credit.append(torch.full_like(error, weight / samples))
                torch.autograd.backward(judged, credit)
            else:
                deaths += 1
        initialiser.eval()
        return {"loss": sum(losses) / samples, "depth_error": sum(errors) / samples, "deaths": deaths}

    def judge(self, on: SceneLoss, predicted: GaussianScene, generator: torch.Generator) -> Judgement:
        """How good ``predicted`` is for the task of ``on``; a loss that is not finite says that nothing is known."""
        judged = on.gradient(predicted, on.data.test)
        return judged.loss, judged.grads


def depth_error(prediction: Prediction, data: SceneData) -> Tensor:
    """Mean absolute error of the predicted logarithms of depths, in the pixels of the cells that show a surface.

    Args:
        prediction: from the views ``data.train``.
        data: the capture.

    Returns:
        A scalar, differentiable in ``prediction.log_depths``; 0 where either side knows no depths.
    """
    if data.depths is None or prediction.log_depths is None:
        return prediction.scene.means.new_zeros(())
    true = cells(torch.stack([data.depths[view] for view in data.train])[:, None]).to(prediction.log_depths)
    surface = true > 0
    difference = prediction.log_depths[:, None] - torch.where(surface, true, 1.0).log()
    return (difference.abs() * surface).sum() / surface.sum().clamp_min(1)
