"""Any optimizer of `torch.optim` (or with its interface) as a `SceneOptimizer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.optim.rates import GroupRates, PositionDecay, Schedule
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage

_SH_PARTS = ("sh0", "shN")


class TorchOptimizer:
    """Runs a `torch.optim.Optimizer` on fresh parameters each step and keeps its state as data.

    State tensors whose first dimension is N are rows ``entry.group`` and follow a `Lineage`; all others are shared, the
    step count that torch's optimizers correct their bias with among them.

    Args:
        build: called with a list of ``{"params": [p], "lr": rate, "name": group}`` dictionaries, returns the optimizer;
            a partial of a class of `torch.optim` does. Optimizers that need a closure are not supported.
        rates: learning rate per group. The means' unit must be "extent": an optimizer takes one number per group.
        schedule: factor on the rates over the run.
    """

    def __init__(
        self,
        build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        rates: GroupRates = GroupRates(),
        schedule: Schedule = PositionDecay(),
    ) -> None:
        if rates.means_unit != "extent":
            raise ValueError("TorchOptimizer: rates.means_unit must be 'extent' (one learning rate per group)")
        self.build, self.rates, self.schedule = build, rates, schedule

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def init(self, scene: GaussianScene) -> OptimizerState:
        return OptimizerState()

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in _split(scene).items()}
        for name, grad in _split(grads).items():
            parameters[name].grad = grad.clone()
        optimizer = self.build(
            [{"params": [p], "lr": self._rate(name, context), "name": name} for name, p in parameters.items()]
        )
        for key, value in {**state.rows, **state.shared}.items():
            entry, name = key.rsplit(".", 1)
            optimizer.state[parameters[name]][entry] = value.clone()
        optimizer.step()
        after = _join({name: parameter.detach() for name, parameter in parameters.items()})
        return after.map(torch.sub, scene), _state_of(optimizer, parameters, len(scene))

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)

    def _rate(self, name: str, context: StepContext) -> float:
        rate = getattr(self.rates, name) * (context.extent_world if name == "means" else 1.0)
        parameter = "sh" if name in _SH_PARTS else name
        return float(rate * self.schedule.factor(parameter, context))


def _split(scene: GaussianScene) -> dict[str, Tensor]:
    """The parameter groups of gsplat-style trainers: ``sh`` becomes ``sh0`` [N, 1, 3] and ``shN`` [N, K - 1, 3]."""
    groups = dict(scene.items())
    sh = groups.pop("sh")
    return {**groups, "sh0": sh[:, :1], "shN": sh[:, 1:]}


def _join(groups: dict[str, Tensor]) -> GaussianScene:
    parameters = {name: tensor for name, tensor in groups.items() if name not in _SH_PARTS}
    return GaussianScene(**parameters, sh=torch.cat([groups["sh0"], groups["shN"]], dim=1))


def _state_of(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], count: int
) -> OptimizerState:
    rows: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for entry, value in optimizer.state[parameter].items():
            if value is None:
                continue
            tensor = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            is_row = tensor.ndim > 0 and tensor.shape[0] == count
            (rows if is_row else shared)[f"{entry}.{name}"] = tensor
    return OptimizerState(rows, shared)
