"""Implicit gradients on a small scene: the bias of Gauss-Newton over precisions, stationarity, peak memory over steps.

    python benchmarks/implicit.py

Exact curvature is the truth here: ``tests/test_implicit.py`` holds it against finite differences. Precisions are in
units of each parameter's mean curvature at the start.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
from torch import Tensor

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from learn2splat.implicit import Curvature, ExactHessian, GaussNewton, InnerProblem, Solver, optimum
from learn2splat.memory import peak_memory_mb
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.matrix import as_matrix
from tests.test_implicit import CONTEXT, exact_loss, fast_loss, held_out, precision, solver, start, tuned_adam


def gradient(scale: float, curvature: Curvature, steps: int) -> tuple[Tensor, float, int]:
    """By the anchor and the precision's logarithm, stationarity, and iterations of the backward solve."""
    anchor, logs = (s.map(lambda t: t.clone().requires_grad_()) for s in (start()[1], precision(scale).map(torch.log)))
    problem = InnerProblem(exact_loss(), CONTEXT)
    scene, report = optimum(anchor, logs.map(torch.exp), problem, solver(scale, steps, curvature))
    grads = torch.autograd.grad(held_out(scene), [*anchor.tensors(), *logs.tensors()])
    both = torch.cat([as_matrix(GaussianScene(*grads[:5])), as_matrix(GaussianScene(*grads[5:]))])
    assert report.pcg is not None
    return both / report.weight, report.stationarity, report.pcg.iterations


def bias(scales: list[float], steps: int) -> None:
    print("precision  stationarity  products  cosine(GN, exact)  relative error of GN")
    for scale in scales:
        exact, _, _ = gradient(scale, ExactHessian(), steps)
        found, closeness, products = gradient(scale, GaussNewton(), steps)
        cosine = float((found * exact).sum() / found.norm() / exact.norm())
        error = float((found - exact).norm() / exact.norm())
        print(f"{scale:9g}  {closeness:12.1e}  {products:8d}  {cosine:17.4f}  {error:20.4f}")


def memory(counts: list[int]) -> None:
    print("steps  peak memory (MB)")
    anchor, weights = (s.to(dtype=torch.float32) for s in (start()[1], precision(1.0)))
    for steps in counts:
        free = Solver(tuned_adam(), first_steps=steps, last_steps=0)
        optimum(anchor.map(lambda t: t.requires_grad_()), weights, InnerProblem(fast_loss(), CONTEXT), free)
        print(f"{steps:5d}  {peak_memory_mb():.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", type=float, nargs="+", default=[30.0, 10.0, 3.0, 1.0])
    parser.add_argument("--steps", type=int, default=80, help="of the inner solver")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bias(arguments.precisions, arguments.steps)
    memory([10, 100, 1000])


if __name__ == "__main__":
    main()
