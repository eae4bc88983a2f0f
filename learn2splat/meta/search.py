"""The last touch: a few coarse constants of a trained optimizer, searched by what counts, full rollouts.

First-order credit within windows does not see what a step does thousands of steps later; a score of whole runs does,
but is too dear for more than some dozens of numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from learn2splat import checkpoint
from learn2splat.optim.base import SceneOptimizer

CHECKPOINT_KIND = "meta-search"
GROWTH, SHRINKAGE = 1.3, -0.6
"""Factors on a coordinate's step after a success and after a failure: a failed step is tried the other way."""


class CoarseOptimizer(SceneOptimizer, Protocol):
    """A `torch.nn.Module` that names a few directions in which its weights may be shifted as a whole."""

    def coarse(self) -> dict[str, dict[str, Tensor]]:
        """Name of a coordinate -> name of a parameter -> what one unit adds to it."""
        ...


@dataclass
class SearchState:
    """Where a search stands.

    Args:
        values: accepted shift per coordinate, in its units.
        steps: next shift to try, per coordinate.
        best_score: of the accepted values, in dB; None before the first evaluation.
        history: one row per evaluation.
    """

    values: dict[str, float]
    steps: dict[str, float]
    best_score: float | None = None
    history: list[dict[str, float | str | bool]] = field(default_factory=list)


def search(
    optimizer: CoarseOptimizer,
    score: Callable[[SceneOptimizer], float],
    evaluations: int,
    folder: Path,
    *,
    step: float = 0.4,
    tolerance: float = 0.002,
    stop: Callable[[], bool] = lambda: False,
    listen: Callable[[Mapping[str, float | str | bool]], None] = lambda row: None,
) -> SceneOptimizer | None:
    """Pattern search, one coordinate after the other (Hooke and Jeeves 1961 without the pattern move).

    Args:
        optimizer: where to start; not changed.
        score: in dB, higher is better.
        evaluations: scores to spend, the one of the start included.
        folder: of the state, written after each evaluation; one that holds a search is resumed.
        step: first shift per coordinate, in its units.
        tolerance: what a shift must gain to be accepted, in dB.
        stop: asked before each evaluation.
        listen: hears of each evaluation.

    Returns:
        The shifted optimizer, or None when stopped before the end.
    """
    names = list(optimizer.coarse())
    state = SearchState(dict.fromkeys(names, 0.0), dict.fromkeys(names, step))
    if folder.exists():
        state = SearchState(**checkpoint.load(folder, CHECKPOINT_KIND)[1])
    while len(state.history) < evaluations:
        if stop():
            return None
        turn = len(state.history)
        name = names[(turn - 1) % len(names)] if turn else ""
        values = dict(state.values)
        if name:
            values[name] += state.steps[name]
        found = score(shifted(optimizer, values))
        better = state.best_score is None or found > state.best_score + tolerance
        if better:
            state.values, state.best_score = values, found
        if name:
            state.steps[name] *= GROWTH if better else SHRINKAGE
        state.history.append({"turn": turn, "coordinate": name, "score": found, "accepted": better})
        checkpoint.save(folder, CHECKPOINT_KIND, {}, asdict(state))
        listen(state.history[-1])
    return shifted(optimizer, state.values)


def shifted(optimizer: CoarseOptimizer, values: Mapping[str, float]) -> SceneOptimizer:
    """A copy of ``optimizer`` with the given shifts of its coarse coordinates."""
    other = copy.deepcopy(optimizer)
    assert isinstance(other, torch.nn.Module)
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for name, shifts in optimizer.coarse().items():
            for parameter, shift in shifts.items():
                parameters[parameter].add_(shift, alpha=values[name])
    return other
