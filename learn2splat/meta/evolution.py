"""Meta-gradients from whole rollouts of perturbed weights: what counts, without a horizon.

Credit within windows does not see what a step does thousands of steps later. Antithetic evolution strategies (Salimans
et al. 2017; for learned optimizers Metz et al. 2022) do, but their noise grows with the number of weights, so a coarse
space of a few dozen directions is perturbed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from learn2splat.meta.estimator import Memoryless, TaskSource, TrainableOptimizer
from learn2splat.meta.learner import is_dead
from learn2splat.meta.life import begin
from learn2splat.meta.tasks import Task
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import Renderer

DEAD_PSNR = 5.0
"""What a dead scene scores, in dB."""
MOST_DB = 1.0
"""Half differences within a pair are cut here: a collapse says no more than that."""


class CoarseOptimizer(TrainableOptimizer, Protocol):
    """A learned optimizer that names a few directions in which its weights may be shifted as a whole."""

    def coarse(self, train_views: int) -> list[dict[str, Tensor]]:
        """For each direction: name of a parameter -> what one unit, a shift that clearly shows, adds to it.

        Directions that do nothing with so many training views are left out: they would only add noise.
        """
        ...


class Evolution(Memoryless):
    """Antithetic pairs of rollouts on one task with one order of views; the score is held-out PSNR over log-time.

    Args:
        tasks: one per pair.
        renderer: for all rollouts.
        shortest, longest: steps of a rollout, log-uniform, stratified over the pairs of a meta-step.
        longest_first: the longest at first; it grows geometrically until half of the training is done.
        marks: steps at which a rollout is scored, as far as it goes, and at its end.
        held_views: held-out views to score on, at most.
        sigma: size of a perturbation along each direction, in its units.
        device: where to optimise.
    """

    def __init__(
        self,
        tasks: TaskSource[Task],
        renderer: Renderer,
        shortest: int = 60,
        longest: int = 2000,
        longest_first: int = 500,
        marks: Sequence[int] = (10, 20, 50, 100, 200, 350, 500, 700, 1000, 1400, 2000, 3000),
        held_views: int = 8,
        sigma: float = 0.4,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.tasks, self.renderer, self.shortest, self.longest = tasks, renderer, shortest, longest
        self.longest_first = min(longest, longest_first)
        self.marks, self.held_views, self.sigma = tuple(marks), held_views, sigma

    def accumulate(
        self, optimizer: CoarseOptimizer, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        assert isinstance(optimizer, torch.nn.Module)
        parameters = dict(optimizer.named_parameters())
        scores, deaths = [], 0
        for index in range(samples):
            task = self.tasks.draw(generator)
            directions = optimizer.coarse(len(task.data.train))
            steps = self._steps((index + float(torch.rand((), generator=generator))) / samples, progress)
            shift = torch.randn(len(directions), generator=generator)
            up, up_died = self.score(shifted(optimizer, directions, (self.sigma * shift).tolist()), task, steps)
            down, down_died = self.score(shifted(optimizer, directions, (-self.sigma * shift).tolist()), task, steps)
            half = max(-MOST_DB, min(MOST_DB, (up - down) / 2))
            for direction, amount in zip(directions, shift.tolist(), strict=True):
                for name, unit in direction.items():
                    gradient = unit * (-half * amount / samples)
                    old = parameters[name].grad
                    parameters[name].grad = gradient if old is None else old + gradient
            scores.append((up + down) / 2)
            deaths += up_died + down_died
        return {"loss": -sum(scores) / len(scores), "deaths": deaths}

    def _steps(self, quantile: float, progress: float) -> int:
        """Steps of a rollout; stratified quantiles give every process about as much to do."""
        grown = min(1.0, 2 * progress)
        low = math.log(self.shortest)
        high = math.log(self.longest_first) * (1 - grown) + math.log(self.longest) * grown
        return round(math.exp(low + (high - low) * quantile))

    def score(self, optimizer: SceneOptimizer, task: Task, steps: int) -> tuple[float, bool]:
        """Mean PSNR of the averaged scene on held-out views over log-spaced steps, and whether the scene died."""
        life = begin(task, optimizer, self.renderer, steps, self.device)
        generator = torch.Generator().manual_seed(task.seed)
        held = [life.held[i] for i in torch.randperm(len(life.held), generator=generator)[: self.held_views].tolist()]
        marks = [mark for mark in self.marks if mark < steps] + [steps]
        total = 0.0
        for done, mark in enumerate(marks):
            while life.step < mark:
                if life.rollout.step() is None or (life.step % 10 == 0 and is_dead(life)):
                    return (total + DEAD_PSNR * (len(marks) - done)) / len(marks), True
            total += life.rollout.scene_loss.psnr(life.rollout.state.output, held)
        return total / len(marks), False


def shifted(
    optimizer: TrainableOptimizer, directions: Sequence[Mapping[str, Tensor]], amounts: Sequence[float]
) -> SceneOptimizer:
    """A copy of ``optimizer``, for use, with its weights moved by so much along each direction."""
    other = copy.deepcopy(optimizer)
    assert isinstance(other, torch.nn.Module)
    parameters = dict(other.eval().named_parameters())
    with torch.no_grad():
        for direction, amount in zip(directions, amounts, strict=True):
            for name, unit in direction.items():
                parameters[name].add_(unit, alpha=amount)
    return other
