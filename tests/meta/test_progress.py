"""What is read from a training's history: smoothing, time left, the best validation."""

from __future__ import annotations

import math

import pytest

from learn2splat.meta.progress import Progress, clock, smoothed
from learn2splat.meta.settings import TrainSettings


def training(meta_steps: int, every: int = 10) -> Progress:
    """A history with known numbers: loss 1 / meta-step, a death every fourth, validations that rise and then fall."""
    history: list[dict[str, float]] = [{"meta_step": 0, "score": 20.0, "seconds_validation": 3.0}]
    for step in range(1, meta_steps + 1):
        row = {"meta_step": step, "loss": 1 / step, "gradient_norm": 0.25, "learning_rate": 0.01}
        row |= {"deaths": step % 4 == 0, "buffer": min(step, 20), "seconds": 2.0}
        if step % every == 0:
            row |= {"score": 20 + step / 100 - (step > 30), "seconds_validation": 3.0}
        history.append(row)
    return Progress(meta_steps, max(row.get("score", 0.0) for row in history), history)


def test_smoothing_is_a_weighted_mean() -> None:
    values = [3.0, -1.0, 4.0, 1.0]
    for count in range(1, 5):
        weights = [0.8**age for age in range(count)][::-1]
        expected = sum(w * v for w, v in zip(weights, values[:count], strict=True)) / sum(weights)
        assert smoothed(values, 0.8)[count - 1] == pytest.approx(expected, rel=1e-12)


def test_smoothing_leaves_out_what_is_not_finite() -> None:
    with_holes = smoothed([math.nan, 2.0, math.inf, 5.0, math.nan])
    assert math.isnan(with_holes[0])
    assert with_holes[1:] == pytest.approx([2.0, 2.0, smoothed([2.0, 5.0])[-1], smoothed([2.0, 5.0])[-1]])


def test_time_left_counts_meta_steps_and_validations_to_come() -> None:
    settings = TrainSettings(meta_steps=105, validate_every=10)
    assert training(0).seconds_left(settings) is None
    assert training(45).seconds_left(settings) == pytest.approx(60 * 2.0 + 6 * 3.0)
    assert training(105).seconds_left(settings) == 0
    assert training(45).seconds == pytest.approx(45 * 2.0 + 5 * 3.0)
    assert clock(3723.4) == "1:02:03"


def test_the_best_validation_is_a_finite_one() -> None:
    progress = training(60)
    assert progress.base_score == 20
    assert progress.best is not None
    assert progress.best["meta_step"] == 30
    progress.history.append({"meta_step": 61, "score": math.nan})
    assert progress.best["meta_step"] == 30
    assert Progress().best is Progress().base_score is None
