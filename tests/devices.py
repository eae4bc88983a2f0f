"""What an optimizer does on one device against what it does on another."""

from __future__ import annotations

import torch

from learn2splat.data.views import RandomViews
from learn2splat.losses import PhotometricLoss
from learn2splat.render.base import Renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from tests.conformance.test_every_optimizer import make
from tests.test_rollout import capture, start_scene

STEPS = 2
"""Few: Levenberg-Marquardt makes decisions by losses, and 1e-7 of a loss are its whole step after four of them."""
TOLERANCE = 2e-3
"""Of the movement: signs of tiny gradients, which Adam makes whole steps of, may differ."""
SHARE = 0.98
"""Of the numbers that must be within it, for the same reason."""


def moved(name: str, renderer: Renderer, device: str, horizon: int = 12) -> GaussianScene:
    """How far the first `STEPS` steps of the optimizer move a small scene."""
    data, optimizer = capture(), make(name)
    loss = SceneLoss(data, renderer, PhotometricLoss(), device=device)
    start = start_scene().to(device)
    sampler = RandomViews(loss.cameras, list(data.train), 2, seed=3)
    run = Rollout(loss, list(data.train), optimizer, sampler, RolloutState.start(start, optimizer), horizon)
    assert len(list(run.run(STEPS))) == STEPS, run.outcome().message
    return run.state.scene.map(torch.sub, start).to("cpu")


def assert_same_movement(there: GaussianScene, here: GaussianScene) -> None:
    for group, expected in here.items():
        error, size = (getattr(there, group) - expected).abs(), float(expected.abs().max())
        assert (error <= TOLERANCE * size + 1e-7).float().mean() >= SHARE, f"{group}: {float(error.max())} of {size}"
