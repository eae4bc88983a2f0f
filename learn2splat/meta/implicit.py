"""Training of precisions through the optima that they lead to (Diff3R, arXiv 2604.01030)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from learn2splat.data.views import RandomViews
from learn2splat.evidence import evidence
from learn2splat.implicit import InnerProblem, Report, Solver, optimum, stationarity
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.estimator import Memoryless, TaskSource
from learn2splat.meta.feedforward import Judgement
from learn2splat.meta.life import Life
from learn2splat.meta.tasks import Task
from learn2splat.predict.uncertainty import UncertaintyHead
from learn2splat.proximal import Proximal
from learn2splat.render.base import Renderer
from learn2splat.residuals import Residuals, SquaredError
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from learn2splat.scene_model import SceneModel


@dataclass(frozen=True)
class DeployedSolver(Solver):
    """Where a run as a user makes it ends, ``first_steps`` updates of ``first`` in the inner loop, is taken as optimum.

    Runs with few views over-fit less than the optimum of their loss, which they never reach: precisions that are right
    there hold back too much here. Away from a stationary point the implicit gradient is an approximation; by the
    precision of whole groups it has a cosine of 0.5 to 0.7 with finite differences of runs, which is enough to train
    by, and cotangents keep their size.
    """

    def optimum(self, problem: InnerProblem, proximal: Proximal) -> tuple[GaussianScene, Report]:
        loss, views = problem.scene_loss, list(problem.views)
        sampler = RandomViews(loss.data.cameras, views, len(views), seed=0)
        state = RolloutState.start(proximal.anchor, self.first)
        run = Rollout(loss, views, self.first, sampler, state, horizon=self.first_steps, proximal=proximal)
        with torch.no_grad():
            for _ in run.run(self.first_steps):
                pass
        scene = run.state.output
        return scene, Report(run.state.step, stationarity(problem, proximal, scene), 1.0)


class ImplicitEstimator(Memoryless):
    """Optimises the context views, judges the optimum on held-out views, and pulls the gradient back.

    What is judged is the logarithm of the mean squared error, in effect PSNR: every scene counts alike, and L1 with
    SSIM asks for less precision than the PSNR of the same pictures does.

    Args:
        tasks: one per optimisation.
        renderer: the rasteriser.
        solver: of the inner problem and of its adjoint.
        residuals: the loss of the inner problem; for a `DeployedSolver` that of a run, `PhotometricLoss`.
        device: where to optimise.
    """

    def __init__(
        self,
        tasks: TaskSource[Task],
        renderer: Renderer,
        solver: Solver,
        residuals: Residuals,
        device: str = "cpu",
    ) -> None:
        self.tasks, self.renderer, self.solver, self.residuals = tasks, renderer, solver, residuals
        self.device = device

    def accumulate(
        self, head: UncertaintyHead, samples: int, progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        head.train()
        found = [self._one(head, samples, self.tasks.draw(generator)) for _ in range(samples)]
        head.eval()
        solved = [report for _, report in found if report.pcg is not None]
        return {
            "loss": sum(loss for loss, _ in found) / samples,
            "deaths": samples - len(solved),
            "stationarity": _mean([report.stationarity for report in solved]),
            "weight": _mean([report.weight for report in solved]),
            "pcg_iterations": _mean([float(report.pcg.iterations) for report in solved if report.pcg]),
            "pcg_residual": _mean([report.pcg.residuals[-1] for report in solved if report.pcg]),
        }

    def _one(self, head: UncertaintyHead, samples: int, task: Task) -> tuple[float, Report]:
        """Held-out loss of one scene, and the report of its layer; nothing is added when the loss is not finite."""
        on = SceneLoss(task.data, self.renderer, PhotometricLoss(), task.background, self.device)
        problem, initial = InnerProblem(on, task.data.train, self.residuals), task.initial.to(self.device)
        seen = evidence(on, problem.residuals, initial, task.data.train)
        precision = head(seen.features, seen.curvature).scene(initial)
        scene, report = optimum(initial, precision, problem, self.solver)
        judge = SceneModel(on, SquaredError(), scene.detach(), task.data.test)
        if not 0 < judge.value < math.inf:
            return math.nan, report
        share = 1 / (samples * judge.value)
        torch.autograd.backward(scene.tensors(), [share * grad for grad in judge.gradient.tensors()])
        return math.log(judge.value), report


class Optimum:
    """Training of initialisers through optima: the derivative, by the prediction, of the held-out loss at the optimum.

    A `learn2splat.meta.foresight.Credit` that needs neither the optimizer of the life nor a number of steps.

    Args:
        head: predicts how strongly the optimum is pulled to the prediction; it is not trained here.
        solver: of the inner problem and of its adjoint.
    """

    def __init__(self, head: UncertaintyHead, solver: Solver) -> None:
        self.head, self.solver = head, solver

    def __call__(self, life: Life, steps: int) -> Judgement | None:
        on, anchor = life.rollout.scene_loss, life.rollout.state.scene.map(lambda t: t.clone().requires_grad_())
        problem = InnerProblem(on, life.rollout.train)
        seen = evidence(on, problem.residuals, anchor, life.rollout.train)
        with torch.no_grad():
            precision = self.head(seen.features, seen.curvature).scene(anchor)
        with torch.enable_grad():
            scene, _ = optimum(anchor, precision, problem, self.solver)
        judged = on.gradient(scene.detach(), life.held)
        if not math.isfinite(judged.loss):
            return None
        return judged.loss, GaussianScene(
            *torch.autograd.grad(scene.tensors(), anchor.tensors(), judged.grads.tensors())
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
