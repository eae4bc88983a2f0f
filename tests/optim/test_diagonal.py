"""Descent in the diagonal of the curvature: its two limits, and the memory of the newborn."""

from __future__ import annotations

import pytest
import torch

from learn2splat.optim.base import StepContext
from learn2splat.optim.diagonal import DiagonalCurvature
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.scene.gaussians import GaussianScene
from tests.conftest import random_scene
from tests.optim.bowl import Bowl

SCENE, GRADS = random_scene(6, degree=0), random_scene(6, seed=1, degree=0)
BOWL = Bowl(SCENE, GRADS, random_scene(6, seed=2, degree=0).map(lambda t: t.square() + 0.1))


def first_step(rate: float, **settings: float) -> GaussianScene:
    rates = GroupRates(*[rate] * 6)
    optimizer = DiagonalCurvature(rates, PowerDecay(), **settings)  # type: ignore[arg-type]
    context = StepContext(0, None, 4, 20, 1.0, torch.ones(6, dtype=torch.bool), BOWL.value, model=BOWL)
    return optimizer.update(GRADS, optimizer.init(SCENE), SCENE, context)[0]


def test_with_a_wide_region_it_is_newtons_step_in_each_parameter() -> None:
    """From the first step on: both moments are corrected for their start."""
    for name, moved in first_step(1e9, share=1.0).items():
        expected = -getattr(GRADS, name) / getattr(BOWL.diagonal(), name)
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-12)


def test_with_a_narrow_region_it_is_sign_descent() -> None:
    for name, moved in first_step(1e-9).items():
        torch.testing.assert_close(moved, -1e-9 * getattr(GRADS, name).sign(), rtol=0, atol=1e-20)


def test_bad_settings_are_refused_by_name() -> None:
    for setting in ({"residuals": "none"}, {"share": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            DiagonalCurvature(**setting)  # type: ignore[arg-type]
