"""Adam over Gaussians, with group rates, a schedule and an optional damping term."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat import native
from learn2splat.native.adam import AdamConstants, AdamParameter, adam_step
from learn2splat.optim import ages
from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows, from_rows, zeros_like
from learn2splat.optim.fusing import compiled, pays
from learn2splat.optim.rates import GroupRates, PositionDecay, Schedule, step_sizes
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1); with the defaults, what 3DGS and gsplat optimise with.

    The update is ``-rate * (m_hat + damping * g) / (sqrt(v_hat) + eps)``. A positive ``damping`` weighs the newest
    gradient more, as Nesterov momentum does (Dozat 2016), and lets larger rates stay stable.

    Args:
        rates: step size per group.
        schedule: factor on the rates over the run.
        beta1, beta2: decay of the first and second moment, in [0, 1).
        eps: added to the root of the second moment.
        damping: weight of the newest gradient beside the first moment.
    """

    def __init__(
        self,
        rates: GroupRates = GroupRates(),
        schedule: Schedule = PositionDecay(),
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-15,
        damping: float = 0.0,
    ) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
        for name, value in (("eps", eps), ("damping", damping)):
            if not value >= 0.0:
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        self.rates, self.schedule = rates, schedule
        self.beta1, self.beta2, self.eps, self.damping = beta1, beta2, eps, damping

    @property
    def needs(self) -> frozenset[Need]:
        return self.rates.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        m, v = zeros_like(scene), zeros_like(scene)  # not the same tensors: steps would be compiled for that
        return OptimizerState(as_rows("m", m) | as_rows("v", v) | ages.newborn(scene))

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        age = ages.older(state, scene)
        rates = step_sizes(self.rates, self.schedule, scene, context)
        fused = native.library() is not None and scene.means.device.type == "cpu" and scene.means.dtype == torch.float32
        step = Adam._fused if fused else Adam._plain
        if pays(scene.means.device, context.horizon):
            step = compiled(step)
        m, v, update = step(self, grads, from_rows("m", state), from_rows("v", state), rates, age)
        return update, OptimizerState(as_rows("m", m) | as_rows("v", v) | ages.as_rows(age))

    def _plain(
        self,
        grads: GaussianScene,
        m: GaussianScene,
        v: GaussianScene,
        rates: dict[str, Tensor],
        age: dict[str, Tensor],
    ) -> tuple[GaussianScene, GaussianScene, GaussianScene]:
        """New moments and the update, in torch on any device and in any precision."""
        m = m.map(lambda old, grad: old.lerp(grad, 1 - self.beta1), grads)
        v = v.map(lambda old, grad: (old * self.beta2).addcmul_(grad, grad, value=1 - self.beta2), grads)

        def step(name: str, first: Tensor, second: Tensor, grad: Tensor) -> Tensor:
            correct_m = ages.correction(self.beta1, 1.0, age[name], first.dtype)
            correct_v = ages.correction(self.beta2, 0.5, age[name], first.dtype)
            direction = (first * correct_m).add_(grad, alpha=self.damping)
            direction.div_(second.sqrt().mul_(correct_v).add_(self.eps))
            return direction.mul_(-rates[name])

        columns = zip(m.items(), v.tensors(), grads.tensors(), strict=True)
        return m, v, GaussianScene(*(step(name, first, second, grad) for (name, first), second, grad in columns))

    def _fused(
        self,
        grads: GaussianScene,
        m: GaussianScene,
        v: GaussianScene,
        rates: dict[str, Tensor],
        age: dict[str, Tensor],
    ) -> tuple[GaussianScene, GaussianScene, GaussianScene]:
        """The same in one pass of the compiled library."""
        constants = AdamConstants(
            self.beta1,
            self.beta2,
            self.eps,
            self.damping,
            ages.corrections(self.beta1, 1.0, torch.float32, grads.means.device),
            ages.corrections(self.beta2, 0.5, torch.float32, grads.means.device),
        )
        parameters = [
            AdamParameter(grad, first, second, age[name], rates[name])
            for (name, grad), first, second in zip(grads.items(), m.tensors(), v.tensors(), strict=True)
        ]
        new_m, new_v, update = zip(*adam_step(parameters, constants), strict=True)
        return GaussianScene(*new_m), GaussianScene(*new_v), GaussianScene(*update)

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)
