"""The pattern search: a quadratic's peak, never worse than the start, resume to the same path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learn2splat.meta.search import search, shifted
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.moments import GROUPS
from learn2splat.optim.learned.rule import LearnedRule

COORDINATES = 24


class Counted:
    """A quadratic in the constants of the rule, and how often it was asked for."""

    def __init__(self) -> None:
        self.calls = 0
        self.peak = torch.linspace(-0.5, 0.5, len(GROUPS))[:, None]

    def __call__(self, optimizer: SceneOptimizer) -> float:
        self.calls += 1
        assert isinstance(optimizer, LearnedRule)
        return -float((optimizer.log_step - self.peak).square().mean())


def test_each_coordinate_shifts_one_group() -> None:
    rule = LearnedRule()
    coarse = rule.coarse()
    assert len(coarse) == COORDINATES
    for name, shifts in coarse.items():
        moved = shifted(rule, {**dict.fromkeys(coarse, 0.0), name: 2.0})
        assert isinstance(moved, LearnedRule)
        rows = (moved.log_step - rule.log_step).abs().sum(dim=1) > 0
        assert [group for group, row in zip(GROUPS, rows, strict=True) if row] == [name.split()[0]]
        torch.testing.assert_close(moved.log_step - rule.log_step, 2 * shifts["log_step"])
        assert not bool(rule.log_step.any())


def test_it_climbs_and_never_ends_below_its_start(tmp_path: Path) -> None:
    score = Counted()
    start = score(LearnedRule())
    found = search(LearnedRule(), score, 1 + 6 * COORDINATES, tmp_path / "search")
    assert found is not None
    # the first column of each group cannot reach the peak in the view part, which stays worth 0 shifts of it
    assert score(found) > 0.5 * start
    assert score(search(LearnedRule(), score, 1, tmp_path / "short") or found) == start


@pytest.mark.parametrize("killed_after", [1, 7, 30])
def test_a_resumed_search_takes_the_same_path(tmp_path: Path, killed_after: int) -> None:
    whole, parts = Counted(), Counted()
    one = search(LearnedRule(), whole, 40, tmp_path / "one")
    assert search(LearnedRule(), parts, 40, tmp_path / "two", stop=lambda: parts.calls >= killed_after) is None
    two = search(LearnedRule(), parts, 40, tmp_path / "two")
    assert isinstance(one, LearnedRule)
    assert isinstance(two, LearnedRule)
    assert torch.equal(one.log_step, two.log_step)
    assert parts.calls == whole.calls == 40
