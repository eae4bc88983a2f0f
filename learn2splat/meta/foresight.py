"""Training of initialisers for what an optimizer makes of their Gaussians: ForeSplat (arXiv 2605.22020).

The predicted Gaussians are optimised on the views that were shown, without a graph; what is found on the way is handed
to the initialiser as if it were a derivative by the prediction (the Jacobian of the steps counts as the identity). So
memory does not grow with the number of steps, and the optimizer may be any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from learn2splat.data.base import SceneData
from learn2splat.meta.contexts import refinement
from learn2splat.meta.estimator import TaskSource
from learn2splat.meta.feedforward import Judgement, TargetEstimator
from learn2splat.meta.learner import roll_out
from learn2splat.meta.life import Life, begin
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import Renderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss


class Credit(Protocol):
    """What a refinement says about the Gaussians that it began with."""

    def __call__(self, life: Life, steps: int) -> Judgement | None:
        """Optimise ``life`` for up to ``steps``; None when its scene died (see `roll_out`)."""
        ...


class Anchors:
    """MetaGrad: mean held-out loss, and mean of its gradients, at every ``stride``-th scene of the refinement.

    Each of these is what a run that ended there would give, the running average. The gradients are by the raw
    parameters, the space in which the optimizer steps. The first anchor is ``stride`` steps away from the prediction:
    how good that is on its own is not asked here. A refinement shorter than the stride has its last scene as single
    anchor. Steps after the last anchor would say nothing and are not made.

    Args:
        stride: steps between anchors.
    """

    def __init__(self, stride: int = 8) -> None:
        if stride < 1:
            raise ValueError(f"stride={stride}: anchors are 1 step or more apart")
        self.stride = stride

    def __call__(self, life: Life, steps: int) -> Judgement | None:
        on, held = life.rollout.scene_loss, life.held
        marks = range(self.stride, steps + 1, self.stride) or [steps]
        loss, grads = 0.0, None
        for mark in marks:
            if not roll_out(life, mark - life.step):
                return None
            judged = on.gradient(life.rollout.state.output, held)
            loss += judged.loss / len(marks)
            grads = judged.grads if grads is None else grads.map(torch.add, judged.grads)
        assert grads is not None
        return loss, grads.map(lambda total: total / len(marks))


class Displacement:
    """Reptile (Nichol et al. 2018): the prediction is pulled to where the refinement ends; the loss is that there."""

    def __call__(self, life: Life, steps: int) -> Judgement | None:
        rollout, before = life.rollout, life.rollout.state.scene
        if not roll_out(life, steps):
            return None
        after = rollout.state.output
        return rollout.scene_loss.value(after, life.held), before.map(torch.sub, after)


class ForesightEstimator(TargetEstimator):
    """``now`` times the gradient of a `TargetEstimator`, and the rest from a refinement of random length.

    Args:
        tasks: ``train`` are the views that are shown and optimised on, ``test`` judge.
        renderer: the rasteriser.
        inner: the optimizer of the refinement, with all its settings that of the deployment.
        credit: what the refinement says.
        steps: shortest and longest refinement, each length in between equally often.
        horizon: length of the refinement in deployment, which schedules of ``inner`` may ask for.
        now: share of the loss of the prediction itself, the lambda of the paper: 1 refines nothing.
        device: where to predict and optimise.
        depth: see `TargetEstimator`.
    """

    def __init__(
        self,
        tasks: TaskSource[SceneData],
        renderer: Renderer,
        inner: SceneOptimizer,
        credit: Credit,
        steps: Sequence[int] = (10, 100),
        horizon: int = 200,
        now: float = 0.0,
        device: str = "cpu",
        depth: float = 0.0,
    ) -> None:
        super().__init__(tasks, renderer, device, depth)
        self.shortest, self.longest = steps
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"steps={list(steps)}: give the shortest and the longest refinement, of 1 step or more")
        if not 0.0 <= now <= 1.0:
            raise ValueError(f"now={now}; it is a share in 0..1")
        self.inner, self.credit, self.horizon, self.now = inner, credit, horizon, now

    def judge(self, on: SceneLoss, predicted: GaussianScene, generator: torch.Generator) -> Judgement:
        if self.now == 1.0:
            return super().judge(on, predicted, generator)
        later = self._refined(on.data, predicted, generator)
        if later is None:
            return math.nan, predicted
        if self.now == 0.0:
            return later
        now = super().judge(on, predicted, generator)
        loss = self.now * now[0] + (1 - self.now) * later[0]
        return loss, now[1].map(lambda one, two: self.now * one + (1 - self.now) * two, later[1])

    def _refined(self, data: SceneData, predicted: GaussianScene, generator: torch.Generator) -> Judgement | None:
        steps = int(torch.randint(self.shortest, self.longest + 1, (), generator=generator))
        seed = int(torch.randint(2**31, (), generator=generator))
        task = refinement(data, predicted, seed)
        return self.credit(begin(task, self.inner, self.renderer, steps, self.device, self.horizon), steps)
