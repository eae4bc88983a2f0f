"""Adafactor over Gaussians: second moments by row and column instead of by number."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.optim import ages
from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.matrices import natural_matrix
from learn2splat.optim.rates import GroupRates, PowerDecay, Schedule, step_sizes
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

TINY = 1e-30
"""Added to squared gradients, so that those of Gaussians never seen do not divide by zero (the paper's epsilon_1)."""
DECAY_POWER = 0.8
"""The second moment's decay at step t is 1 - t^-0.8 (section 7.2): it needs no bias correction."""


class Adafactor:
    """Adafactor (Shazeer & Stern 2018, algorithm 4) with given step sizes and without momentum.

    Per parameter with gradient G [n, w] (`natural_matrix`): running means r [n] of the rows of G^2 and c [w] of its
    columns, V = r c^T / mean(r), U = G / sqrt(V), and the update ``-rate U / max(1, rms(U) / clip)``. Of the colours it
    keeps 16 numbers per Gaussian where Adam keeps 96.

    `torch.optim.Adafactor` makes steps relative to the root mean square of the parameter: for positions that
    depends on where the origin lies, and coefficients that begin at zero hardly move. Hence step sizes as Adam's.

    Args:
        rates: step size per group.
        schedule: factor on the rates over the run.
        clip: largest root mean square of U that is not scaled down; greater than 0.
    """

    def __init__(self, rates: GroupRates, schedule: Schedule = PowerDecay(), clip: float = 1.0) -> None:
        if not clip > 0.0:
            raise ValueError(f"clip is {clip}; it must be greater than 0")
        self.rates, self.schedule, self.clip = rates, schedule, clip

    @property
    def needs(self) -> frozenset[Need]:
        return self.rates.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        rows, shared = ages.newborn(scene), {"count": torch.zeros((), dtype=torch.int64)}
        for name, tensor in scene.items():
            rows[f"row.{name}"] = torch.zeros_like(tensor[..., 0] if tensor.ndim > 1 else tensor)
            shared[f"column.{name}"] = tensor.new_zeros(natural_matrix(tensor).shape[1])
        return OptimizerState(rows, shared)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        count = int(state.shared["count"]) + 1
        age = ages.older(state, scene)
        rates = step_sizes(self.rates, self.schedule, scene, context)
        rows, shared = ages.as_rows(age), {"count": torch.tensor(count, dtype=torch.int64)}
        updates = []
        for name, grad in grads.items():
            matrix = natural_matrix(grad)
            squares = matrix.square().add_(TINY)
            old = state.rows[f"row.{name}"]
            share = age[name].view(-1, *[1] * (old.ndim - 1)).to(old) ** -DECAY_POWER
            row = old.lerp(squares.mean(dim=1).view_as(old), share)
            column = state.shared[f"column.{name}"].lerp(squares.mean(dim=0), count**-DECAY_POWER)
            rows[f"row.{name}"], shared[f"column.{name}"] = row, column
            direction = self._direction(matrix, row.reshape(-1), column)
            updates.append(direction.view_as(grad) * -rates[name])
        return GaussianScene(*updates), OptimizerState(rows, shared)

    def _direction(self, matrix: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Gradients [n, w] over the root of their factored second moment, clipped."""
        scaled = matrix * (row.mean().sqrt() * row.rsqrt())[:, None] * column.rsqrt()
        return scaled / (scaled.square().mean().sqrt() / self.clip).clamp_min(1.0)

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)
