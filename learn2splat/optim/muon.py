"""Muon over Gaussians: momentum with orthonormal columns."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows, from_rows, zeros_like
from learn2splat.optim.matrices import natural_matrix
from learn2splat.optim.rates import GroupRates, PowerDecay, Schedule, step_sizes
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic x -> a x + b x^3 + c x^5 that raises small singular values fastest (Jordan et al. 2024)."""
ITERATIONS = 5
ADAM_RMS = 0.2
"""Root mean square of a typical update of Adam with step size 1 (Liu et al. 2025)."""


class Muon:
    """Muon (Jordan et al. 2024) on the natural matrix of each parameter.

    Per parameter: heavy-ball momentum b, Nesterov's look ahead g + momentum b, its orthogonal factor U by Newton-Schulz
    iteration on `natural_matrix` [n, w], and the update ``-rate 0.2 sqrt(max(n, w)) U``, whose root mean square is that
    of Adam's (Liu et al. 2025, section 2.2). As w <= 4 is far below n, orthonormal columns only decorrelate and
    rescale the axes: Gaussians keep the relative sizes of their gradients, which Adam makes equal. Nothing
    falls back to Adam: opacities, a single column, are divided by their norm.

    Args:
        rates: step size per group.
        schedule: factor on the rates over the run.
        momentum: in [0, 1).
    """

    def __init__(self, rates: GroupRates, schedule: Schedule = PowerDecay(), momentum: float = 0.95) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie in [0, 1)")
        self.rates, self.schedule, self.momentum = rates, schedule, momentum

    @property
    def needs(self) -> frozenset[Need]:
        return self.rates.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        return OptimizerState(as_rows("b", zeros_like(scene)))

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        buffer = from_rows("b", state).map(lambda old, grad: (old * self.momentum).add_(grad), grads)
        ahead = grads.map(lambda grad, b: grad.add(b, alpha=self.momentum), buffer)
        rates = step_sizes(self.rates, self.schedule, scene, context)

        def step(name: str, tensor: Tensor) -> Tensor:
            matrix = natural_matrix(tensor)
            return orthogonalised(matrix).view_as(tensor) * (-ADAM_RMS * max(matrix.shape) ** 0.5 * rates[name])

        return GaussianScene(*(step(name, tensor) for name, tensor in ahead.items())), OptimizerState(
            as_rows("b", buffer)
        )

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)


def orthogonalised(matrix: Tensor) -> Tensor:
    """``matrix`` [n, w] with its singular values moved to about 1 (0.68..1.2 for all above norm / 500).

    The iteration X <- X (a + b X^T X + c (X^T X)^2) only ever multiplies X from the right, so it runs on the Gram
    matrix [w, w] and the cost is that of two products, O(n w^2).
    """
    a, b, c = COEFFICIENTS
    gram = (matrix.mT @ matrix).double()
    square = gram.trace().clamp_min(torch.finfo(matrix.dtype).tiny)  # a zero gradient stays zero
    gram = gram / square
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor = identity / square.sqrt()
    for _ in range(ITERATIONS):
        polynomial = a * identity + b * gram + c * gram @ gram
        factor, gram = factor @ polynomial, polynomial @ gram @ polynomial
    return matrix @ factor.to(matrix)
