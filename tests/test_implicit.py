"""Diff3R's layer: implicit gradients against finite differences and unrolling, its limits, its memory (D1-D6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from learn2splat import native, pcg
from learn2splat.data.base import SceneData
from learn2splat.implicit import ExactHessian, GaussNewton, InnerProblem, Solver, optimum, stationarity
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import Need, OptimizerState, StepContext
from learn2splat.proximal import Proximal
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.matrix import as_matrix, from_matrix
from learn2splat.scene_loss import SceneLoss
from tests.conftest import random_scene, ring_cameras

needs_library = pytest.mark.skipif(native.library() is None, reason=f"no compiled library: {native.why_missing()}")
VIEWS, CONTEXT, TARGETS = 3, [0, 1], [2]


class Newton:
    """Steps of Gauss-Newton by conjugate gradients, for scenes whose diagonals are slow to come by."""

    needs = frozenset[Need]()

    def init(self, scene: GaussianScene) -> OptimizerState:
        return OptimizerState()

    def update(
        self, grads: GaussianScene, state: OptimizerState, scene: GaussianScene, context: StepContext
    ) -> tuple[GaussianScene, OptimizerState]:
        model = context.model
        assert model is not None
        found = pcg.solve(lambda v: as_matrix(model.product(from_matrix(v))), -as_matrix(grads), tolerance=1e-4, limit=60)
        step = from_matrix(found.x)
        while model.value_at(scene.map(torch.add, step)) > model.value:
            step = step.map(lambda t: t / 2)
        return step, state

    def reindex(self, state: OptimizerState, lineage: Lineage) -> OptimizerState:
        return state


@cache
def problem() -> tuple[SceneLoss, GaussianScene]:
    """Pictures of six wide, faint Gaussians, so that few decisions are near, and where to start from."""
    truth = random_scene(6, seed=11, degree=0)
    truth = replace(truth, log_scales=truth.log_scales + 0.8, logit_opacities=truth.logit_opacities - 1)
    cameras = ring_cameras(VIEWS, 12, 10)
    images = ReferenceRenderer().render(truth, cameras).image
    photos = [(image.clamp(0, 1) * 255).round().byte() for image in images]
    data = SceneData("tiny", cameras, photos, [f"{v}" for v in range(VIEWS)], None, CONTEXT, TARGETS)
    generator = torch.Generator().manual_seed(1)
    start = truth.map(lambda t: t + 0.2 * torch.randn(t.shape, generator=generator, dtype=t.dtype))
    return SceneLoss(data, ReferenceRenderer(), PhotometricLoss()), start


def inner() -> InnerProblem:
    return InnerProblem(problem()[0], CONTEXT)


def weights(scale: float) -> GaussianScene:
    """Precisions of 0.5 to 1.5 times ``scale``, in units of the mean curvature of each parameter."""
    scene = problem()[1]
    generator = torch.Generator().manual_seed(2)
    return curvature().map(
        lambda t: scale * t.mean() * (0.5 + torch.rand(t.shape, generator=generator, dtype=t.dtype)).expand_as(t)
    ) if scene is not None else scene


@cache
def curvature() -> GaussianScene:
    return inner().model(problem()[1]).diagonal()


def solver(**settings: object) -> Solver:
    return Solver(**{"first_steps": 0, "last": Newton(), "stationary": 0.0, "last_steps": 30, **settings})  # type: ignore[arg-type]


def held_out(scene: GaussianScene) -> Tensor:
    """Half the mean squared error on the target view, differentiable."""
    loss = problem()[0]
    image = ReferenceRenderer().render(scene, loss.cameras.take(TARGETS)).image
    return 0.5 * (image - loss.photos(TARGETS)).square().mean()


if __name__ == "__main__":
    import time
    for scale in (10.,3.,1.,0.3,0.1):
        w = weights(scale); prob=inner(); anchor=problem()[1]
        t=time.time()
        s=anchor
        sol=solver(curvature=ExactHessian(), tolerance=1e-8, limit=200)
        from learn2splat.implicit import _descent,_stationarity
        prox=Proximal(anchor,w)
        cur=anchor; tr=[]
        for mod,nxt in _descent(Newton(),prob,prox,cur,30):
            tr.append(float(as_matrix(mod.gradient).norm())); cur=nxt
        print(scale,time.time()-t,[f"{x:.1e}" for x in tr[::4]],stationarity(prob,prox,cur))
