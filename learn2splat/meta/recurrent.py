"""Training of recurrent updaters: whole short lives, each of their scenes judged on held-out views."""

from __future__ import annotations

import torch

from learn2splat.meta.estimator import Memoryless, TaskSource, TrainableOptimizer
from learn2splat.meta.learner import run_window
from learn2splat.meta.life import begin
from learn2splat.meta.objective import MetaObjective
from learn2splat.meta.tasks import Task
from learn2splat.render.base import Renderer


class ShortLives(Memoryless):
    """Backpropagation through lives of a random number of iterations, from the first to the last.

    Args:
        tasks: one per life.
        renderer: the rasteriser.
        objective: judges a life.
        longest: lives have 1 to so many iterations, each number equally often.
        device: where to optimise.
    """

    def __init__(
        self,
        tasks: TaskSource[Task],
        renderer: Renderer,
        objective: MetaObjective,
        longest: int = 4,
        device: str = "cpu",
    ) -> None:
        self.tasks, self.renderer, self.objective = tasks, renderer, objective
        self.longest, self.device = longest, device

    def accumulate(
        self, optimizer: TrainableOptimizer, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        assert isinstance(optimizer, torch.nn.Module)
        optimizer.train()
        losses, deaths = [], 0
        for _ in range(samples):
            task = self.tasks.draw(generator)
            steps = 1 + int(torch.randint(self.longest, (), generator=generator))
            life = begin(task, optimizer, self.renderer, steps, self.device)
            result = run_window(life, steps, 0, self.objective, 0.0, task.seed)
            if result.loss.requires_grad:
                (result.loss / samples).backward()
            losses.append(float(result.loss.detach()))
            deaths += result.died
        optimizer.eval()
        return {"loss": sum(losses) / samples, "deaths": deaths}
