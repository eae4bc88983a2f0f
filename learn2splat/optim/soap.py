"""SOAP over Gaussians: Adam in the eigenbasis of the gradients' second moments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learn2splat.optim.adam import Adam
from learn2splat.optim.base import Need, OptimizerState, StepContext, as_rows, from_rows
from learn2splat.optim.matrices import natural_matrix
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage


class Soap:
    """SOAP (Vyas et al. 2024) with the column side of the natural matrix of each parameter only.

    Per parameter with gradient G [n, w] (`natural_matrix`): R = running mean of G^T G, Q = its eigenvectors, and Adam
    on G Q, rotated back. R is shared by all Gaussians; the row side, n x n, would couple unrelated ones and is left
    out. Q begins as the eigenvectors of the first R; every few steps one step of orthogonal iteration, Q <- qr(R Q),
    keeps it up, and the first moment is carried over to the new axes. Rotating a parameter's columns rotates its
    updates: unlike in Adam, the choice of the axes of space and of colour has no part in the result.

    Args:
        adam: what runs in the eigenbasis; its ``beta2`` is also the decay of R.
        every: steps between two changes of Q.
    """

    def __init__(self, adam: Adam, every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"every={every}: give 1 or more")
        self.adam, self.every = adam, every

    @property
    def needs(self) -> frozenset[Need]:
        return self.adam.needs

    def init(self, scene: GaussianScene) -> OptimizerState:
        state, shared = self.adam.init(scene), {"count": torch.zeros((), dtype=torch.int64)}
        for name, tensor in scene.items():
            width = natural_matrix(tensor).shape[1]
            shared[f"second.{name}"] = tensor.new_zeros(width, width)
            shared[f"basis.{name}"] = torch.eye(width, dtype=tensor.dtype, device=tensor.device)
        return OptimizerState(state.rows, shared)

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        second = {name: self._second_moment(grad, state.shared[f"second.{name}"]) for name, grad in grads.items()}
        basis = {name: state.shared[f"basis.{name}"] for name in second}
        rows, count = dict(state.rows), int(state.shared["count"])
        if count % self.every == 0:
            turned = {name: _next_basis(second[name], q, first=count == 0) for name, q in basis.items()}
            change = {name: q.mT @ turned[name] for name, q in basis.items()}
            rows |= as_rows("m", _rotated(from_rows("m", state), change))
            basis = turned
        update, inner = self.adam.update(_rotated(grads, basis), OptimizerState(rows), scene, context)
        update = _rotated(update, {name: q.mT for name, q in basis.items()})
        shared = {f"second.{name}": r for name, r in second.items()} | {f"basis.{name}": q for name, q in basis.items()}
        return update, OptimizerState(inner.rows, {"count": torch.tensor(count + 1, dtype=torch.int64), **shared})

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state.take(lineage)

    def _second_moment(self, grad: Tensor, old: Tensor) -> Tensor:
        matrix = natural_matrix(grad)
        return old.lerp(matrix.mT @ matrix, 1 - self.adam.beta2)


def _next_basis(second: Tensor, basis: Tensor, first: bool) -> Tensor:
    """[w, w] orthonormal columns: at first eigenvectors, largest first; later a step of orthogonal iteration."""
    found = torch.linalg.eigh(second).eigenvectors.flip(-1) if first else torch.linalg.qr(second @ basis).Q
    return found.contiguous()  # products round by memory layout, and a checkpoint keeps none


def _rotated(scene: GaussianScene, rotations: Mapping[str, Tensor]) -> GaussianScene:
    """The columns of each parameter's natural matrix, times a rotation [w, w]."""
    return GaussianScene(
        *((natural_matrix(tensor) @ rotations[name]).view_as(tensor) for name, tensor in scene.items())
    )
