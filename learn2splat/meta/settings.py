"""Constants of meta-training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainSettings:
    """Constants of the outer loop.

    Args:
        meta_steps: updates of the weights.
        samples: windows, or pairs of rollouts, whose meta-gradients are averaged.
        lr, weight_decay, clip, warm_up: of AdamW; the rate falls to zero along a cosine.
        ema: decay of the averaged weights, which are what is validated and shipped.
        validate_every: meta-steps between two validations.
        checkpoint_seconds: how much work a power cut may cost.
        seed: of all randomness, together with the rank.
    """

    meta_steps: int = 600
    samples: int = 2
    lr: float = 1.5e-2
    weight_decay: float = 1e-3
    clip: float = 0.5
    warm_up: int = 30
    ema: float = 0.98
    validate_every: int = 100
    checkpoint_seconds: float = 60.0
    seed: int = 0
