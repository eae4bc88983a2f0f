"""How long a run will take and how much memory it will need, from its first steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from learn2splat.rollout_state import RolloutState, StepRecord

MEASURED_STEPS = 10
"""Steps that an estimate is made from."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take, evaluation and file writing excluded.

    Args:
        gaussians: now.
        max_gaussians: the cap; equal to ``gaussians`` in a run that does not densify.
        seconds_per_step: median so far.
        bytes_per_gaussian: of scene, averages, optimizer state and statistics, and of their copies in a step.
        seconds, memory_mb: in all, were the number of Gaussians to stay what it is.
        seconds_at_cap, memory_at_cap_mb: at most: as if the run were at the cap from now on, and all of a step's cost
            were in proportion to the number of Gaussians.
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
    state: RolloutState, records: Sequence[StepRecord], steps: int, max_gaussians: int, peak_memory_mb: float
) -> Estimate:
    """The estimate for a run of ``steps`` updates in all.

    Args:
        state: after ``records``.
        records: one or more steps that were measured.
        steps: updates in all.
        max_gaussians: the cap, or the number there is in a run that does not densify.
        peak_memory_mb: of the process so far.
    """
    count = max(1, len(state.scene))
    each = median(record.seconds_render + record.seconds_update for record in records)
    per_gaussian = step_bytes(state) / count
    left = (steps - state.step) * each
    more = max(0, max_gaussians - count)
    return Estimate(
        gaussians=count,
        max_gaussians=max(count, max_gaussians),
        seconds_per_step=each,
        bytes_per_gaussian=per_gaussian,
        seconds=state.seconds + left,
        memory_mb=peak_memory_mb,
        seconds_at_cap=state.seconds + left * (1 + more / count),
        memory_at_cap_mb=peak_memory_mb + more * per_gaussian / 2**20,
    )


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
