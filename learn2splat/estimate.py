"""How long a run will take and how much memory it will need, from its first steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState, StepRecord

ESTIMATED_AT, MEASURED_STEPS = 30, 20
"""Steps after which an estimate is made, and how many newest ones it is made from: most of the first are trials."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take, evaluation and file writing excluded.

    Args:
        gaussians: now.
        max_gaussians: the cap; equal to ``gaussians`` in a run that does not densify.
        seconds_per_step: median of the newest steps.
        bytes_per_gaussian: of scene, averages, optimizer state and statistics, and of their copies in a step.
        seconds, memory_mb: in all, were the number of Gaussians to stay what it is.
        seconds_at_cap, memory_at_cap_mb: at most: as if the run were at the cap from now on, with all of a step's cost
            but `fixed_seconds` in proportion to the number of Gaussians.
    """

    gaussians: int
    max_gaussians: int
    seconds_per_step: float
    bytes_per_gaussian: float
    seconds: float
    memory_mb: float
    seconds_at_cap: float
    memory_at_cap_mb: float


def estimate(
    state: RolloutState,
    records: Sequence[StepRecord],
    steps: int,
    max_gaussians: int,
    peak_memory_mb: float,
    time_budget: float = math.inf,
    fixed: float = 0.0,
) -> Estimate:
    """The estimate for a run of at most ``steps`` updates and ``time_budget`` seconds in all.

    Args:
        state: after ``records``.
        records: one or more steps that were measured.
        steps: updates in all.
        max_gaussians: the cap, or the number there is in a run that does not densify.
        peak_memory_mb: of the process so far.
        time_budget: optimisation seconds in all.
        fixed: seconds of a step whatever the number of Gaussians (`fixed_seconds`).
    """
    count = max(1, len(state.scene))
    each = median(record.seconds_render + record.seconds_update for record in records[-MEASURED_STEPS:])
    per_gaussian = step_bytes(state) / count
    left = steps - state.step
    more = max(0, max_gaussians - count)
    at_cap = each + max(0.0, each - fixed) * more / count
    return Estimate(
        gaussians=count,
        max_gaussians=max(count, max_gaussians),
        seconds_per_step=each,
        bytes_per_gaussian=per_gaussian,
        seconds=min(time_budget, state.seconds + left * each),
        memory_mb=peak_memory_mb,
        seconds_at_cap=min(time_budget, state.seconds + left * at_cap),
        memory_at_cap_mb=peak_memory_mb + more * per_gaussian / 2**20,
    )


def fixed_seconds(rollout: Rollout) -> float:
    """Seconds of a step that do not depend on the number of Gaussians: of one with two; changes nothing.

    Not with one: what is compiled for any number of rows is compiled anew for a single one.
    """
    drawn = rollout.sampler.state_dict()
    first = torch.zeros(2, dtype=torch.int64, device=rollout.state.scene.means.device)
    state = RolloutState.start(rollout.state.scene.take(first), rollout.optimizer)
    alone = Rollout(rollout.scene_loss, rollout.train, rollout.optimizer, rollout.sampler, state, rollout.horizon)
    records = [record for _ in range(MEASURED_STEPS) if (record := alone.step()) is not None]
    rollout.sampler.load_state_dict(drawn)
    return median(record.seconds_render + record.seconds_update for record in records) if records else 0.0


def step_bytes(state: RolloutState) -> int:
    """Bytes of all that has a row per Gaussian at the height of a step."""
    scene = _bytes(state.scene.tensors())
    average = 0 if state.average is None else scene
    optimizer, statistics = _bytes(state.optimizer.rows.values()), _bytes(state.statistics.values())
    geometry = _bytes(t for t in (state.footprint, state.neighbours, state.clusters) if t is not None)
    renewed = scene + average + optimizer + statistics  # updates are functional: old and new are there at once
    best, gradient, update = scene, scene, scene
    return 2 * renewed + geometry + best + gradient + update


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
