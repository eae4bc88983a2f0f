"""A window of differentiable steps, a rollout with frozen weights, and the meta-loss before and after the latter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learn2splat.meta.life import Life
from learn2splat.meta.objective import MetaObjective
from learn2splat.meta.tape import Taped, TapedDensifier, TapedStep
from learn2splat.optim.base import OptimizerState
from learn2splat.rollout import DIVERGED_FACTOR

DEATH_WEIGHT = 1.0
"""Meta-loss of a window in which a scene died, per unit of relative step size."""


@dataclass(frozen=True)
class Windows:
    """How many steps are unrolled, by how far the life has come.

    Args:
        lengths: pairs (steps made so far, window), the first pair whose number is not yet reached counts.
        longest: window after all of them.
    """

    lengths: Sequence[tuple[int, int]] = ((10, 4), (200, 8))
    longest: int = 12

    def length(self, step: int) -> int:
        """The window at ``step``."""
        return next((window for until, window in self.lengths if step < until), self.longest)


@dataclass(frozen=True)
class WindowResult:
    """A window's meta-loss, and whether the scene died in it or in the rollout after it."""

    loss: Tensor
    died: bool


def run_window(life: Life, steps: int, ahead: int, objective: MetaObjective, delayed: float, seed: int) -> WindowResult:
    """Unroll ``steps`` updates, roll out ``ahead`` more with frozen weights, and judge the former.

    Judged right after the window, an update gets credit for what it does at once; judged after the rollout, for what is
    left of it when the directions that the training views determine have been corrected since: over-fitting shows
    there. A scene that diverges, loses all its Gaussians or stops being finite dies; the window then costs the size of
    its steps, relative to what they were, instead of being dropped.

    Args:
        life: advanced by ``steps + ahead`` unless it dies.
        steps: length of the window.
        ahead: length of the rollout.
        objective: the meta-loss.
        delayed: share of the judgement after the rollout, 0..1.
        seed: of the choice of views.
    """
    rollout, growth = life.rollout, life.rollout.growth
    taped = Taped(rollout.optimizer)
    rollout.growth = replace(growth, densifier=TapedDensifier(growth.densifier, taped.tape))
    try:
        return _run_taped(life, taped, steps, ahead, objective, delayed, seed)
    finally:
        rollout.growth = growth


def _run_taped(
    life: Life, taped: Taped, steps: int, ahead: int, objective: MetaObjective, delayed: float, seed: int
) -> WindowResult:
    """`run_window` in a life whose densifier writes to the tape."""
    rollout, died = life.rollout, False
    rollout.optimizer = taped
    try:
        with torch.enable_grad():
            for _ in range(steps):
                record = rollout.step()
                died = record is None or is_dead(life)
                if died:
                    break
    finally:
        rollout.optimizer = taped.optimizer
    rollout.state = replace(rollout.state, optimizer=_detached(rollout.state.optimizer))
    if died:
        return WindowResult(death_cost(taped.tape), died=True)
    share = delayed if ahead else 0.0
    loss = (1 - share) * objective(taped.tape, rollout, life.held, seed) if share < 1 else torch.zeros(())
    if not roll_out(life, ahead):
        return WindowResult(loss + death_cost(taped.tape), died=True)
    if share:
        loss = loss + share * objective(taped.tape, rollout, life.held, seed)
    return WindowResult(loss, died=False)


def roll_out(life: Life, steps: int) -> bool:
    """Up to ``steps`` updates with frozen weights; whether the scene lived through them."""
    with torch.no_grad():
        for _ in range(steps):
            if life.rollout.step() is None or is_dead(life):
                return False
    return True


def is_dead(life: Life) -> bool:
    """Whether the scene diverged, is not finite, or shows nothing any more."""
    state = life.rollout.state
    if state.running_loss > DIVERGED_FACTOR * state.first_loss or not state.scene.is_finite():
        return True
    return bool((state.scene.logit_opacities < -5.5).float().mean() > 0.95)


def death_cost(tape: Sequence[TapedStep]) -> Tensor:
    """How large the steps of a window are relative to themselves: 1 in value, and smaller steps are better."""
    total, parts = torch.zeros(()), 0
    for step in tape:
        for update in step.update.tensors():
            size = update.detach().abs().sum()
            if float(size) > 0 and bool(torch.isfinite(size)):
                total = total + update.abs().sum() / size
                parts += 1
    return DEATH_WEIGHT * total / max(parts, 1)


def _detached(state: OptimizerState) -> OptimizerState:
    return OptimizerState(
        {name: tensor.detach() for name, tensor in state.rows.items()},
        {name: tensor.detach() for name, tensor in state.shared.items()},
    )
