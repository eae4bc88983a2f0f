"""The learned rule: its reductions, and the compiled step against the plain one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learn2splat import native
from learn2splat.config import build, compose
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import StepContext
from learn2splat.optim.learned.moments import DIRECTIONS, GROUPS, directions
from learn2splat.optim.learned.rule import LARGEST, LearnedRule
from learn2splat.optim.learned.traits import TRAITS
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.neighbours import nearest_neighbours
from tests.conftest import random_scene

RATES = GroupRates(means=0.02, means_unit="footprint")
SCHEDULE = PowerDecay(scale=30.0, warm=20.0, power=0.5)


def context(step: int, count: int, train_views: int = 24) -> StepContext:
    return StepContext(
        step=step,
        horizon=None,
        batch_views=4,
        train_views=train_views,
        extent_world=2.0,
        visible=torch.ones(count, dtype=torch.bool),
        loss=0.1,
        pixel_footprint_world=torch.linspace(0.5, 2.0, count, dtype=torch.float64),
    )


def trained(seed: int = 0) -> LearnedRule:
    """A rule with every constant away from zero."""
    rule, generator = LearnedRule(RATES, SCHEDULE, damping=0.2).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return rule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("degree", [0, 3])
def test_untrained_it_is_its_base_to_the_bit(dtype: torch.dtype, damping: float, degree: int) -> None:
    rule, adam = LearnedRule(RATES, SCHEDULE, damping=damping).eval(), Adam(RATES, SCHEDULE, damping=damping)
    scene = random_scene(33, degree=degree, dtype=dtype)
    states = rule.init(scene), adam.init(scene)
    for step in range(6):
        grads = random_scene(33, seed=step + 1, degree=degree, dtype=dtype)
        ours, rule_state = rule.update(grads, states[0], scene, context(step, 33))
        theirs, adam_state = adam.update(grads, states[1], scene, context(step, 33))
        states = rule_state, adam_state
        for name, tensor in ours.items():
            assert torch.equal(tensor, getattr(theirs, name)), name


@pytest.mark.parametrize("count", [0, 1, 2, 5, 200])
@pytest.mark.parametrize("degree", [0, 2, 3])
def test_the_compiled_step_equals_the_plain_one(count: int, degree: int) -> None:
    if native.library() is None:
        pytest.skip(f"no compiled library: {native.why_missing()}")
    rule = trained()
    exact = random_scene(count, degree=degree)
    states = [rule.init(exact), rule.init(exact.to(dtype=torch.float32))]
    mixed = Lineage(torch.arange(count), torch.arange(count) % 3 == 0)
    for step in range(8):
        if step == 4:  # from here on, rows of different ages
            states = [rule.reindex(state, mixed) for state in states]
        grads = random_scene(count, seed=step + 1, degree=degree)
        one, states[0] = rule.update(grads, states[0], exact, context(step, count))
        two, states[1] = rule.update(
            grads.to(dtype=torch.float32), states[1], exact.to(dtype=torch.float32), context(step, count)
        )
        for name, tensor in one.items():
            # directions of order 1 cancel: errors are relative to the step size
            size = 30 * (RATES.sh0 if name == "sh" else getattr(RATES, name))
            torch.testing.assert_close(getattr(two, name).double(), tensor, rtol=2e-5, atol=1e-5 * size)


def test_the_number_of_threads_changes_no_bit() -> None:
    count, rule, threads = 3000, trained(), torch.get_num_threads()
    scene, found = random_scene(count, dtype=torch.float32), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            state = rule.init(scene)
            for step in range(3):
                grads = random_scene(count, seed=step + 1, dtype=torch.float32)
                update, state = rule.update(grads, state, scene, context(step, count))
            found.append([*update.tensors(), *state.rows.values(), *state.shared.values()])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_by_chunks_of_rows_is_the_same_to_the_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    count, rule, scene, rows = 50, trained(), random_scene(50, dtype=dtype), list[int]()

    def counted(moments: Mapping[str, Tensor], grad: Tensor, *rest: Any) -> tuple[Tensor, dict[str, Tensor]]:
        rows.append(len(grad))
        return directions(moments, grad, *rest)

    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr("learn2splat.optim.learned.moments.directions", counted)
    found = {}
    for chunk in (count, 7):
        monkeypatch.setattr("learn2splat.optim.learned.rule.CHUNK", chunk)
        state = rule.init(scene)
        for step in range(3):
            grads = random_scene(count, seed=step + 1, dtype=dtype)
            update, state = rule.update(grads, state, scene, context(step, count))
        found[chunk] = update, state
    assert (max(rows), min(rows)) == (count, 1)
    assert rows.count(7) == 3 * 5 * (count // 7)
    for name, tensor in found[count][0].items():
        assert torch.equal(tensor, getattr(found[7][0], name)), name
    for name, tensor in found[count][1].rows.items():
        assert torch.equal(tensor, found[7][1].rows[name]), name


def test_the_state_is_little_larger_than_adams() -> None:
    """Bytes per Gaussian at SH 3: moments of 59 and of 14 numbers, two each, six squares, a visibility, five ages."""
    scene, grads, sizes = random_scene(10, dtype=torch.float32), random_scene(10, seed=1, dtype=torch.float32), []
    for name in ("l2s", "adam"):
        optimizer = build(compose("optimize", [f"optimizer={name}"]).optimizer)
        _, state = optimizer.update(grads, optimizer.init(scene), scene, context(0, 10))
        sizes.append(sum(rows.numel() * rows.element_size() for rows in state.rows.values()) / 10)
    assert sizes == [4 * (2 * 59 + 2 * 14 + 6 + 1 + 5), 4 * (2 * 59 + 5)]
    assert sizes[0] <= 1.3 * sizes[1]


@pytest.mark.parametrize("trait", TRAITS)
def test_steps_are_multiplied_by_powers_of_relative_traits(trait: str) -> None:
    count = 51
    plain = trained()
    with torch.no_grad():
        plain.power.zero_()
    rule, powers = copy.deepcopy(plain), torch.linspace(-0.3, 0.3, len(GROUPS))
    with torch.no_grad():
        rule.power[:, TRAITS.index(trait)] = powers[:, None]
    scene, states = random_scene(count), (plain.init(random_scene(count)), rule.init(random_scene(count)))
    drawn = torch.zeros(count)
    squares = scene.map(torch.zeros_like)
    for step in range(3):
        visible = torch.rand(count, generator=torch.Generator().manual_seed(step)) < (0.9 if step else 1.1)
        grads = random_scene(count, seed=step + 1).map(lambda g, v=visible: g * v.view(-1, *[1] * (g.ndim - 1)))
        ctx = replace(context(step, count), visible=visible)
        one, first = plain.update(grads, states[0], scene, ctx)
        two, second = rule.update(grads, states[1], scene, ctx)
        states = first, second
        drawn = 0.95 * drawn + 0.05 * visible
        squares = squares.map(lambda old, g: 0.999 * old + 0.001 * g * g, grads)
    assert ctx.pixel_footprint_world is not None
    for row, group in enumerate(GROUPS):
        columns = {"sh0": slice(0, 3), "shN": slice(3, None)}.get(group, slice(None))
        ours, base, v = (
            getattr(of, "sh" if group.startswith("sh") else group).reshape(count, -1)[:, columns]
            for of in (two, one, squares)
        )
        value = {
            "size": scene.log_scales.mean(dim=1) - ctx.pixel_footprint_world.log(),
            "loudness": v.mean(dim=1).log() / 2,
            "visibility": drawn.double().log(),
        }[trait]
        relative = (value - value.mean()).clamp(-3, 3)
        torch.testing.assert_close(ours, base * (powers[row] * relative)[:, None].exp(), rtol=1e-5, atol=0)


def test_what_was_never_drawn_does_not_move_the_average_of_the_traits() -> None:
    rule, scene, grads = trained(), random_scene(40), random_scene(40, seed=3)
    ctx = context(0, 40)
    alone = rule.update(grads, rule.init(scene), scene, ctx)[0]
    rows = torch.arange(49) % 40
    more, hidden = scene.take(rows), torch.arange(49) >= 40
    nothing = grads.take(rows).map(lambda g: torch.where(hidden.view(-1, *[1] * (g.ndim - 1)), 0 * g, g))
    assert ctx.pixel_footprint_world is not None
    ctx = replace(ctx, visible=~hidden, pixel_footprint_world=ctx.pixel_footprint_world[rows])
    both = rule.update(nothing, rule.init(more), more, ctx)[0]
    for name, tensor in alone.items():
        torch.testing.assert_close(getattr(both, name)[:40], tensor, rtol=1e-9, atol=0)


def test_constants_interpolate_in_log_step_and_follow_the_views() -> None:
    rule = LearnedRule(RATES, SCHEDULE, knots=(0, 9, 99))
    group = GROUPS.index("quats")
    with torch.no_grad():
        rule.log_step[group] = torch.tensor([0.0, 1.0, -1.0])
        rule.log_step[GROUPS.index("means"), 1] = 1.0  # at 8 views only
        rule.weight[group, DIRECTIONS.index("slow")] = 0.5

    def step(at: int, views: int = 24) -> float:
        return float(rule.constants(context(at, 1, views)).factor[group].detach().log())

    squashed = lambda value: 2.5 * float(torch.tanh(torch.tensor(value / 2.5)))  # noqa: E731
    assert step(0) == pytest.approx(0.0, abs=1e-6)
    assert step(9) == pytest.approx(squashed(1.0), rel=1e-5)
    half = round(10**0.5) - 1  # log1p(2) is close to half of log1p(9)
    expected = float(torch.log1p(torch.tensor(float(half))) / torch.log1p(torch.tensor(9.0)))
    assert step(half) == pytest.approx(squashed(expected), rel=1e-5)
    assert step(99) == step(10_000) == pytest.approx(squashed(-1.0), rel=1e-5)
    many = rule.constants(context(5, 1, 48))
    for views, share in ((1, 0.0), (3, 0.0), (5, math.log(6 / 4) / math.log(9 / 4)), (8, 1.0), (24, 0.0), (48, 0.0)):
        means = rule.constants(context(5, 1, views)).factor[GROUPS.index("means")].detach()
        assert float(means.log()) == pytest.approx(squashed(share), rel=1e-5, abs=1e-6)
    assert float(many.weights[DIRECTIONS.index("slow"), group].detach()) == pytest.approx(0.5, rel=1e-6)
    assert float(many.weights[DIRECTIONS.index("slow"), GROUPS.index("means")].detach()) == 0.0


@given(st.lists(st.floats(-9, 9, width=32), min_size=len(DIRECTIONS), max_size=len(DIRECTIONS)))
def test_the_mixture_never_opposes_the_base(weights: list[float]) -> None:
    """Where all directions agree, what is mixed is at least a fifth of what base and positive weights add."""
    rule = LearnedRule(RATES, SCHEDULE, knots=(0, 9, 99))
    with torch.no_grad():
        rule.weight += torch.tensor(weights)[None, :, None]
    mixed = rule.constants(context(9, 1, 24)).weights[:, GROUPS.index("quats")].tolist()
    positive = 1 + sum(max(0.0, weight) for weight in weights)
    assert 1 + sum(mixed) >= 0.2 * positive * (1 - 1e-5)
    if 1 + sum(weights) >= 0.2 * positive:  # then nothing is changed
        assert mixed == pytest.approx(weights, rel=1e-5)


def test_moving_and_scaling_the_world_changes_nothing_but_units() -> None:
    """Gradients by world lengths shrink as the world grows; the update of the means grows with it."""
    rule, scene = trained(), random_scene(40)
    grads = random_scene(40, seed=5)
    factor = 1000.0
    one, _ = rule.update(grads, rule.init(scene), scene, context(3, 40))
    ctx = context(3, 40)
    assert ctx.pixel_footprint_world is not None
    bigger = replace(ctx, pixel_footprint_world=factor * ctx.pixel_footprint_world, extent_world=factor * 2.0)
    moved = replace(scene, means=factor * scene.means + 5.0, log_scales=scene.log_scales + 1.0)
    two, _ = rule.update(replace(grads, means=grads.means / factor), rule.init(scene), moved, bigger)
    torch.testing.assert_close(two.means, factor * one.means, rtol=1e-9, atol=0)
    for name in ("log_scales", "quats", "logit_opacities", "sh"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=1e-9, atol=0)


def test_neighbours_equal_brute_force() -> None:
    means = torch.rand(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = torch.cdist(means, means).fill_diagonal_(float("inf"))
    assert torch.equal(nearest_neighbours(means, 6).long(), distances.argsort(dim=1)[:, :6])
    coincident = nearest_neighbours(torch.zeros(5, 3), 6)
    assert not (coincident == torch.arange(5)[:, None]).any()
    assert nearest_neighbours(means[:3], 6).tolist()[0][:2] == nearest_neighbours(means[:3], 6).tolist()[0][2:4]
    assert nearest_neighbours(means[:1], 6).tolist() == [[0] * 6]
    assert nearest_neighbours(means[:0], 6).shape == (0, 6)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("plain", [True, False])
def test_inner_products_are_summed_over_each_group(degree: int, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr(native, "library", lambda: None)
    rule, scene = trained(), random_scene(75, degree=degree)
    state, grads = rule.init(scene), [random_scene(75, seed=seed, degree=degree) for seed in (5, 6)]
    for step, grad in enumerate(grads):
        _, state = rule.update(grad, state, scene, context(step, 75))
    momentum = grads[0].map(lambda g: (1 - rule.decays.m) * g)  # before the second gradient
    for row, group in enumerate(GROUPS):
        if group.startswith("sh"):
            part = slice(0, 1) if group == "sh0" else slice(1, None)
            g, m = grads[1].sh[:, part].double(), momentum.sh[:, part].double()
            old = grads[0].sh[:, part].double()
        else:
            g, m = getattr(grads[1], group).double(), getattr(momentum, group).double()
            old = getattr(grads[0], group).double()
        newest = torch.stack([(g * m).sum(), (g * g).sum(), (m * m).sum()])
        before = torch.stack([old.sum() * 0, (old * old).sum(), old.sum() * 0])  # no momentum at the first step
        expected = 0.1 * newest + 0.9 * 0.1 * before
        torch.testing.assert_close(state.shared["products"][row], expected, rtol=1e-4, atol=1e-6)


def test_feedback_follows_the_persistence_of_the_gradient() -> None:
    """Equal gradients persist; alternating ones do not: with positive feedback the former make longer steps."""
    rule, scene = LearnedRule(RATES, SCHEDULE), random_scene(20)
    grad = random_scene(20, seed=3)
    sizes = {}
    for feedback in (0.0, 1.0):
        for alternating in (False, True):
            with torch.no_grad():
                rule.feedback.fill_(feedback)
            state = rule.init(scene)
            for step in range(30):
                sign = -1.0 if alternating and step % 2 else 1.0
                update, state = rule.update(grad.map(lambda g, s=sign: s * g), state, scene, context(step, 20))
            sizes[feedback, alternating] = float(update.quats.abs().mean())
    assert sizes[1.0, False] == pytest.approx(
        sizes[0.0, False] * math.e ** (2.5 * math.tanh(1 / 2.5)), rel=3e-2
    )  # nearly 1
    assert sizes[1.0, True] < sizes[0.0, True]


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_nothing_grows_beyond_what_photos_show(unit: float) -> None:
    """In any unit of length; what is smaller, or shrinks, is left alone."""
    count, rule, side = 40, trained(), 8
    zeros = random_scene(count, dtype=torch.float32).map(torch.zeros_like)
    start = torch.linspace(-6.0, 4.0, count)[:, None].expand(count, 3) + math.log(unit)
    for wish in (1.0, -1.0):
        grads = replace(zeros, log_scales=torch.full((count, 3), -wish))
        scene = replace(random_scene(count, dtype=torch.float32), log_scales=start)
        state = rule.init(scene)
        for step in range(20):
            now = context(step, count)
            assert now.pixel_footprint_world is not None
            now = replace(now, pixel_footprint_world=unit * now.pixel_footprint_world)
            assert now.pixel_footprint_world is not None
            room = (LARGEST * side * now.pixel_footprint_world).float().log()[:, None] - scene.log_scales
            free, _ = rule.update(grads, state, scene, now)
            assert (free.log_scales * wish > 0).all()
            bounded, state = rule.update(grads, state, scene, replace(now, photo_side_px=side))
            held = (free.log_scales > room.clamp_min(0)).any(dim=1)
            assert held.any() == (wish > 0)
            assert not held.all()
            assert torch.equal(bounded.log_scales[~held], free.log_scales[~held])
            torch.testing.assert_close(
                bounded.log_scales, free.log_scales.minimum(room.clamp_min(0)), rtol=0, atol=1e-5
            )
            scene = replace(scene, log_scales=scene.log_scales + bounded.log_scales)
