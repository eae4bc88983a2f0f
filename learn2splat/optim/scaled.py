"""An optimizer whose updates a person scales while it runs."""

from __future__ import annotations

from dataclasses import fields

from learn2splat.optim.base import Need, OptimizerState, SceneOptimizer, StepContext
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

PARAMETERS = tuple(field.name for field in fields(GaussianScene))


class ScaledUpdates:
    """Multiplies the updates of ``optimizer`` by a factor per parameter; a factor of 1 changes no bit.

    The optimizer does not know: its state is that of the unscaled updates.

    Args:
        optimizer: makes the updates.
    """

    def __init__(self, optimizer: SceneOptimizer) -> None:
        self.optimizer = optimizer
        self.factors = dict.fromkeys(PARAMETERS, 1.0)

    @property
    def needs(self) -> frozenset[Need]:
        return self.optimizer.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        return self.optimizer.init(scene)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        factors = dict(self.factors)  # another thread may write to it
        update, state = self.optimizer.update(grads, state, scene, context)
        if any(factor != 1.0 for factor in factors.values()):
            update = GaussianScene(**{name: factors[name] * tensor for name, tensor in update.items()})
        return update, state

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return self.optimizer.reindex(state, lineage)
