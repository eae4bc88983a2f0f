"""Splits, sparse views and view samplers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.data.views import (
    MIN_BASELINE,
    FarthestPointViews,
    RandomViews,
    ViewSampler,
    farthest_point_order,
    sparse_views,
    train_test_split,
    view_features,
)


def ring(count: int) -> Cameras:
    """Cameras on a circle of radius 3, looking at its centre."""
    poses = torch.eye(4).repeat(count, 1, 1)
    for i in range(count):
        a = 2 * math.pi * i / count
        forward = torch.tensor([-math.cos(a), -math.sin(a), 0.0])
        down = torch.tensor([0.0, 0.0, -1.0])
        rotation = torch.stack([torch.linalg.cross(down, forward), down, forward])
        poses[i, :3, :3] = rotation
        poses[i, :3, 3] = -rotation @ (-3 * forward)
    return Cameras.of_one_size(torch.eye(3).repeat(count, 1, 1), poses, 4, 4)


def scene(count: int, test_every: int = 8) -> SceneData:
    train, test = train_test_split(count, test_every)
    photos = [torch.zeros(4, 4, 3, dtype=torch.uint8)] * count
    return SceneData("ring", ring(count), photos, [f"{i:03}" for i in range(count)], None, train, test)


SAMPLERS: dict[str, Callable[[int, int, int], ViewSampler]] = {
    "random": lambda count, batch, seed: RandomViews(ring(100 + count), range(100, 100 + count), batch, seed),
    "farthest": lambda count, batch, seed: FarthestPointViews(ring(100 + count), range(100, 100 + count), batch, seed),
}


# ---- the split


@given(st.integers(0, 60), st.integers(0, 20).filter(lambda n: n != 1))
def test_split_is_a_partition_that_holds_out_every_nth(count: int, test_every: int) -> None:
    train, test = train_test_split(count, test_every)
    assert sorted(train + test) == list(range(count))
    assert train or not count
    if count > 1 and test_every:
        assert test == [i for i in range(count) if i % test_every == 0]
    else:
        assert not test


@pytest.mark.parametrize("test_every", [1, -1])
def test_split_refuses_what_leaves_no_training_view(test_every: int) -> None:
    with pytest.raises(ValueError, match="test_every"):
        train_test_split(5, test_every)


# ---- sparse views


def spread(features: torch.Tensor, rows: list[int]) -> float:
    return min(float((features[a] - features[b]).norm()) for a, b in combinations(rows, 2))


@given(st.integers(4, 12), st.integers(2, 4), st.integers(0, 30))
def test_farthest_points_are_at_least_half_as_spread_as_the_best_choice(count: int, k: int, seed: int) -> None:
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = farthest_point_order(features, k, seed % count)
    best = max(spread(features, list(rows)) for rows in combinations(range(count), k))
    assert len(set(chosen)) == k
    assert spread(features, chosen) >= 0.5 * best - 1e-12, "Gonzalez's bound"


def test_context_on_a_ring_is_evenly_spread() -> None:
    context, targets = sparse_views(scene(32, test_every=0), 4, torch.Generator().manual_seed(0))
    assert {(b - a) % 32 for a, b in zip(context, context[1:] + context[:1], strict=True)} == {8}
    assert targets == []


@given(st.integers(1, 14), st.integers(0, 5))
def test_context_comes_from_training_and_targets_are_the_test_views(k: int, seed: int) -> None:
    data = scene(17)
    context, targets = sparse_views(data, k, torch.Generator().manual_seed(seed))
    assert len(set(context)) == k
    assert set(context) <= set(data.train)
    assert context == sorted(context)
    assert targets == [0, 8, 16]
    assert (context, targets) == sparse_views(data, k, torch.Generator().manual_seed(seed)), "deterministic"


@pytest.mark.parametrize("k", [0, 15])
def test_more_context_than_training_views_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"sparse:{k}.*1 to 14"):
        sparse_views(scene(17), k, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [40, 1000])
def test_targets_keep_a_baseline_from_every_context_view(count: int) -> None:
    data = scene(count)
    context, targets = sparse_views(data, 3, torch.Generator().manual_seed(0))
    features = view_features(data.cameras)
    nearest = torch.cdist(features, features[context]).amin(dim=1)
    assert targets == [view for view in data.test if nearest[view] >= MIN_BASELINE]
    assert (len(targets) < len(data.test)) == (count == 1000)  # of a film, some frames are nearly context views


def test_one_target_is_kept_where_all_are_too_near() -> None:
    views = Cameras.of_one_size(torch.eye(3).repeat(9, 1, 1), torch.eye(4).repeat(9, 1, 1), 4, 4)
    data = replace(scene(9, test_every=4), cameras=views)
    _, targets = sparse_views(data, 3, torch.Generator().manual_seed(0))
    assert targets
    assert set(targets) <= set(data.test)


def test_views_at_one_place_are_told_apart_by_direction() -> None:
    cameras = ring(6)
    poses = cameras.cam_from_world.clone()
    poses[:, :3, 3] = 0
    features = view_features(Cameras.of_one_size(cameras.K, poses, 4, 4))
    assert torch.isfinite(features).all()
    assert set(farthest_point_order(features, 2, 1)) == {1, 4}


# ---- samplers


@pytest.mark.parametrize("kind", SAMPLERS)
@given(st.integers(1, 13), st.integers(1, 7), st.integers(0, 5))
def test_every_view_is_used_equally_often(kind: str, count: int, batch: int, seed: int) -> None:
    sampler = SAMPLERS[kind](count, batch, seed)
    used: Counter[int] = Counter({view: 0 for view in range(100, 100 + count)})
    for _ in range(3 * count):
        drawn = sampler.draw()
        assert len(set(drawn)) == len(drawn) == min(batch, count)
        used.update(drawn)
        assert max(used.values()) - min(used.values()) <= 1
    assert set(used) == set(range(100, 100 + count))
    assert max(used.values()) == min(used.values()) == 3 * min(batch, count)


@pytest.mark.parametrize("kind", SAMPLERS)
@given(st.integers(0, 20))
def test_a_resumed_sampler_goes_on_exactly(kind: str, steps: int) -> None:
    first = SAMPLERS[kind](11, 3, 7)
    for _ in range(steps):
        first.draw()
    state = first.state_dict()
    expected = [first.draw() for _ in range(15)]
    second = SAMPLERS[kind](11, 3, 99)
    second.draw()
    second.load_state_dict(state)
    assert [second.draw() for _ in range(15)] == expected
    assert all(isinstance(value, int | list | torch.Tensor) for value in state.values())


@pytest.mark.parametrize("kind", SAMPLERS)
def test_seeds_matter_and_the_global_generator_does_not(kind: str) -> None:
    def batches(seed: int) -> list[list[int]]:
        sampler = SAMPLERS[kind](20, 4, seed)
        return [sampler.draw() for _ in range(10)]

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert batches(1) == batches(1) != batches(2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_state_of_other_views_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="3 of 11 views"):
        SAMPLERS[kind](12, 3, 0).load_state_dict(SAMPLERS[kind](11, 3, 0).state_dict())
    with pytest.raises(ValueError, match="resume with the same"):
        SAMPLERS[kind](11, 2, 0).load_state_dict(SAMPLERS[kind](11, 3, 0).state_dict())


def test_farthest_batches_are_more_spread_than_random_ones() -> None:
    features = view_features(ring(40))
    samplers = (FarthestPointViews(ring(40), range(40), 4, 0), RandomViews(ring(40), range(40), 4, 0))
    wide, random = (sum(spread(features, sampler.draw()) for _ in range(100)) for sampler in samplers)
    assert wide > 1.5 * random
    opposite = FarthestPointViews(ring(40), range(40), 2, 0).draw()
    assert abs(opposite[0] - opposite[1]) == 20


def test_samplers_refuse_nothing_to_draw() -> None:
    for views, batch in (([], 1), ([1, 1], 1), ([1], 0)):
        with pytest.raises(ValueError, match=r"views|batch"):
            RandomViews(ring(4), views, batch, 0)
