"""Stochastic gradient descent with momentum over Gaussians."""

from __future__ import annotations

from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows, from_rows, zeros_like
from learn2splat.optim.rates import GroupRates, PowerDecay, Schedule, step_sizes
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage


class Sgd:
    """Heavy-ball momentum (Polyak 1964), in the form ``b = momentum * b + g; update = -rate * b``.

    Args:
        rates: step size per group.
        schedule: factor on the rates over the run.
        momentum: in [0, 1).
    """

    def __init__(self, rates: GroupRates, schedule: Schedule = PowerDecay(), momentum: float = 0.9) -> None:
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
        rates = step_sizes(self.rates, self.schedule, scene, context)
        return GaussianScene(*(b * -rates[name] for name, b in buffer.items())), OptimizerState(as_rows("b", buffer))

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)
