"""What optimizers around another optimizer have in common."""

from __future__ import annotations

from learn2splat.optim.base import Need, OptimizerState, SceneOptimizer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage


class Wrapped:
    """The part of a `SceneOptimizer` around another one that leaves its needs and its state as they are.

    Args:
        optimizer: makes the updates.
    """

    def __init__(self, optimizer: SceneOptimizer) -> None:
        self.optimizer = optimizer

    @property
    def needs(self) -> frozenset[Need]:
        return self.optimizer.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        return self.optimizer.init(scene)

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return self.optimizer.reindex(state, lineage)
