"""What a learned optimizer is trained for: first-order credit at later and averaged scenes.

No graph goes through the renderer. Inside a window of steps the optimizer's updates are kept with their graph to its
weights; a gradient measured at a later scene is then taken as the derivative of the meta-loss by each of them (the
Jacobian from one step to a later one is taken as the identity, as in first-order meta-learning, Nichol et al. 2018;
through a densification in between it is the true one, with choices and random numbers fixed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from learn2splat.meta.tape import TapedStep
from learn2splat.optim.base import zeros_like
from learn2splat.rollout import Rollout
from learn2splat.scene.gaussians import GaussianScene

AT_REST = 1e-8
"""Updates of a smaller mean size are judged as if they had this one: an optimizer may start from moving nothing."""


class MetaObjective(Protocol):
    """Judges a window of steps."""

    def __call__(self, tape: Sequence[TapedStep], rollout: Rollout, held: Sequence[int], seed: int) -> Tensor:
        """Meta-loss, a scalar differentiable in the optimizer's weights.

        Args:
            tape: the steps of the window, oldest first.
            rollout: after the window.
            held: held-out views of the task.
            seed: of the choice of views.
        """
        ...


class AveragedTrajectory:
    """Credit from the gradient at the running average of the trajectory, on held-out and on training views.

    The meta-loss is ``sum_i <delta_i, G_i> / sum_i <|delta_i|, |G_i|>``, in -1..1, with G_i the gradient at the
    averaged scene after the window plus ``later`` times the batch gradients of the window's later steps, discounted.

    Args:
        held_views, train_views: views of each kind that G is measured on.
        later_early, later_late: weight of the later batch gradients before and after ``early_steps``.
        early_steps: see above; the average lags least where the trajectory is fastest.
        discount: per step between an update and a later batch gradient.
    """

    def __init__(
        self,
        held_views: int = 3,
        train_views: int = 2,
        later_early: float = 0.3,
        later_late: float = 0.03,
        early_steps: int = 20,
        discount: float = 0.9,
    ) -> None:
        self.held_views, self.train_views = held_views, train_views
        self.later_early, self.later_late, self.early_steps = later_early, later_late, early_steps
        self.discount = discount

    def __call__(self, tape: Sequence[TapedStep], rollout: Rollout, held: Sequence[int], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        views = _some(held, self.held_views, generator) + _some(rollout.train, self.train_views, generator)
        ahead = rollout.scene_loss.gradient(rollout.state.averaged, views).grads
        later = self.later_early if rollout.state.step <= self.early_steps else self.later_late
        gained, size = torch.zeros(()), torch.zeros(())
        batches = zeros_like(ahead)
        for step in reversed(tape):
            ahead, batches = step.before_births(ahead, averaged=True), step.before_births(batches)
            credit = ahead.map(torch.add, batches)
            gained = gained + _inner(step.update, credit)
            size = size + _size(step.update, credit)
            batches = batches.map(lambda sum_, grad: self.discount * sum_ + later * grad, step.grads)
        return gained / size


class Greedy:
    """The published objective's credit: each update is judged at the very next step only.

    With ``uphill`` > 0 an update against the gradient's sign costs extra, as in Learn2Splat's delta loss. Its stability
    loss is left out: it compares each view's loss before and after an update, but batches of two steps differ in views.
    """

    def __init__(self, held_views: int = 4, uphill: float = 0.0) -> None:
        self.held_views, self.uphill = held_views, uphill

    def __call__(self, tape: Sequence[TapedStep], rollout: Rollout, held: Sequence[int], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        last = rollout.scene_loss.gradient(rollout.state.scene, _some(held, self.held_views, generator)).grads
        following = [step.grads for step in tape[1:]] + [last]
        gained, size = torch.zeros(()), torch.zeros(())
        for step, after in zip(tape, following, strict=True):
            credit = step.before_births(after)
            gained = gained + _inner(step.update, credit)
            if self.uphill:
                against = step.update.map(lambda u, g: (u * g.sign()).clamp_min(0), step.grads)
                gained = gained + self.uphill * _inner(against, credit.map(torch.abs))
            size = size + _size(step.update, credit)
        return gained / size


class Discounted:
    """Loss on held-out views after each update of a life, earlier ones discounted: ReSplat's (arXiv 2510.08575, eq. 6).

    The scene before each update, and what is measured at it, counts as a constant; otherwise the gradient is exact. It
    is for optimizers by renderings, on lives without densification, judged right after the window.

    Args:
        held_views: how many views judge.
        discount: per update that follows.
    """

    def __init__(self, held_views: int = 4, discount: float = 0.9) -> None:
        self.held_views, self.discount = held_views, discount

    def __call__(self, tape: Sequence[TapedStep], rollout: Rollout, held: Sequence[int], seed: int) -> Tensor:
        views = _some(held, self.held_views, torch.Generator().manual_seed(seed))
        scene, weight, weights, total = rollout.state.scene, 1.0, 0.0, torch.zeros(())
        for step in reversed(tape):
            judged = rollout.scene_loss.gradient(scene, views)
            gained = _inner(step.update, judged.grads)
            total = total + weight * (judged.loss + gained - gained.detach())
            weights, weight = weights + weight, weight * self.discount
            scene = scene.map(torch.sub, step.update.detach())
        return total / weights


def _some(views: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    order = torch.randperm(len(views), generator=generator)[:count].tolist()
    return [views[i] for i in order]


def _inner(one: GaussianScene, two: GaussianScene) -> Tensor:
    total = torch.zeros(())
    for a, b in zip(one.tensors(), two.tensors(), strict=True):
        total = total + (a * b).sum()
    return total


def _size(update: GaussianScene, credit: GaussianScene) -> Tensor:
    """What `_inner` would be if all signs agreed; constant, and never zero."""
    weights = credit.map(torch.abs)
    at_rest = AT_REST * torch.stack([tensor.sum() for tensor in weights.tensors()]).sum()
    return torch.maximum(_inner(update.detach().map(torch.abs), weights), at_rest).clamp_min(1e-30)
