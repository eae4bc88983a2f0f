"""An optimizer whose updates a person scales while it runs."""

from __future__ import annotations

from dataclasses import fields

from learn2splat.optim.base import OptimizerState, SceneOptimizer, StepContext
from learn2splat.optim.wrapped import Wrapped
from learn2splat.scene.gaussians import GaussianScene

PARAMETERS = tuple(field.name for field in fields(GaussianScene))


class ScaledUpdates(Wrapped):
    """Multiplies the updates of ``optimizer`` by a factor per parameter; a factor of 1 changes no bit.

    The optimizer does not know: its state is that of the unscaled updates.

    Args:
        optimizer: makes the updates.
    """

    def __init__(self, optimizer: SceneOptimizer) -> None:
        super().__init__(optimizer)
        self.factors = dict.fromkeys(PARAMETERS, 1.0)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        factors = dict(self.factors)  # another thread may write to it
        update, state = self.optimizer.update(grads, state, scene, context)
        if any(factor != 1.0 for factor in factors.values()):
            update = GaussianScene(**{name: factors[name] * tensor for name, tensor in update.items()})
        return update, state
