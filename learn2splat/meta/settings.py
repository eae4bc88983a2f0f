"""Constants of meta-training."""

from __future__ import annotations

from dataclasses import dataclass, field

from learn2splat.meta.learner import Windows
from learn2splat.meta.tasks import TaskRanges


@dataclass(frozen=True)
class TrainSettings:
    """Constants of the outer loop.

    Args:
        meta_steps: updates of the weights.
        lives_per_step: windows whose meta-gradients are averaged.
        lr, weight_decay, clip, warm_up: of AdamW; the rate falls to zero along a cosine.
        ema: decay of the averaged weights, which are what is validated and shipped.
        new_life: how often a window begins a new life although the buffer is full.
        perturbed: how often a new life first runs a while with other step sizes.
        shortest_life, longest_life: steps after which a life ends, log-uniform; the upper end grows from 100 over the
            first ``growth`` of training.
        rollout_share, longest_rollout: frozen steps after a window: up to this share of the steps so far.
        delayed: share of the meta-loss that is measured after those steps.
        validate_every: meta-steps between two validations.
        checkpoint_seconds: how much work a power cut may cost.
        seed: of all randomness, together with the rank.
    """

    meta_steps: int = 600
    lives_per_step: int = 2
    lr: float = 1.5e-2
    weight_decay: float = 1e-3
    clip: float = 0.5
    warm_up: int = 30
    ema: float = 0.98
    new_life: float = 0.1
    perturbed: float = 0.25
    shortest_life: int = 25
    longest_life: int = 3000
    growth: float = 0.5
    rollout_share: float = 0.6
    longest_rollout: int = 150
    delayed: float = 0.5
    validate_every: int = 100
    checkpoint_seconds: float = 60.0
    seed: int = 0
    windows: Windows = field(default_factory=Windows)
    ranges: TaskRanges = field(default_factory=TaskRanges)
