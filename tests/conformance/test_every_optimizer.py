"""The laws that every optimizer YAML obeys (architecture, laws 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from learn2splat import checkpoint
from learn2splat.config import BadConfigError, build, choices, compose
from learn2splat.optim.base import (
    CLUSTERS,
    NEIGHBOURS,
    Need,
    OptimizerState,
    Renderings,
    SceneOptimizer,
    StepContext,
    apply_update,
    to_device,
)
from learn2splat.scene.clusters import clusters
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.neighbours import nearest_neighbours
from tests.conftest import random_scene, ring_cameras
from tests.optim.bowl import Bowl

COUNT = 9
POSITIONS = random_scene(64, seed=77).means
READING = "resplat gradients=true"
OPTIMIZERS = [*dict.fromkeys([*choices("optimizer"), *choices("trainee")]), READING]
"""Names of both kinds are made untrained; ``l2s`` is a trained one. Settings that are not the default follow a name."""
AT_REST = ["l2s-faithful", "resplat", READING]
"""Untrained these move nothing, by their publication; all other trainees are `adam-tuned`."""
DECAYING = {"adamw-gs"}
"""Optimizers that move what has no gradient, by a decay that a test of theirs states in closed form."""
SHARING = {"adafactor", "soap", "l2s"}
"""Optimizers with statistics that all Gaussians share and that outlive births: factors, a basis, persistence."""
DECIDING = {"lm", "lm-photometric"}
"""Optimizers that look at losses to decide on a step and on a damping that all Gaussians share."""
MODELLED = DECIDING | {"diagonal", "learned-rule-curvature"}
"""Optimizers that need a quadratic model, which the meta device has none of."""


def make(name: str) -> SceneOptimizer:
    name, *settings = name.split()
    if name in choices("trainee"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            changes = [f"trainee.{setting}" for setting in settings]
            return build(compose("meta_train", [f"trainee={name}", *changes]).trainee).eval()
    return build(compose("optimize", [f"optimizer={name}", "scene=none"]).optimizer)


def positive(scene: GaussianScene) -> GaussianScene:
    return scene.map(torch.square)


def context(optimizer: SceneOptimizer, step: int, order: torch.Tensor, dtype: torch.dtype) -> StepContext:
    """What rollout would provide, for Gaussians in the order of ``order``."""
    footprint = torch.linspace(0.01, 0.02, 64, dtype=dtype)[order]
    squares = positive(random_scene(64, seed=step + 500, dtype=dtype)).take(order)
    return StepContext(
        step=step,
        horizon=50,
        batch_views=4,
        train_views=20,
        extent_world=1.7,
        visible=((torch.arange(64) + step) % 4 > 0)[order],
        loss=0.2,
        pixel_footprint_world=footprint if Need.PIXEL_FOOTPRINT in optimizer.needs else None,
        view_squares=squares if Need.VIEW_SQUARES in optimizer.needs else None,
        neighbours=nearest_neighbours(POSITIONS[order], NEIGHBOURS) if Need.NEIGHBOURS in optimizer.needs else None,
        clusters=clusters(POSITIONS[order], CLUSTERS) if Need.CLUSTERS in optimizer.needs else None,
        renderings=renderings(step, dtype) if Need.RENDERINGS in optimizer.needs else None,
    )


def with_model(
    context: StepContext, optimizer: SceneOptimizer, scene: GaussianScene, grads: GaussianScene, order: torch.Tensor
) -> StepContext:
    """The context with a quadratic model whose gradient is ``grads``, where the optimizer needs one."""
    if not optimizer.needs & {Need.LOSS_MODEL, Need.SQUARED_ERROR_MODEL}:
        return context
    curvature = positive(random_scene(64, seed=context.step + 900, dtype=scene.means.dtype)).take(order)
    return replace(context, model=Bowl(scene, grads, curvature))


def renderings(step: int, dtype: torch.dtype) -> Renderings:
    """Noise for both what is and what should be."""
    generator = torch.Generator().manual_seed(step)
    photos, images = torch.rand(2, 3, 12, 16, 3, generator=generator, dtype=dtype)
    alpha, depth = torch.rand(2, 3, 12, 16, generator=generator, dtype=dtype)
    return Renderings(ring_cameras(3, 16, 12, dtype=dtype), photos, images, alpha, 3 * depth)


def moved(context: StepContext, device: str) -> StepContext:
    """The same with all tensors on ``device``."""
    entries = {entry.name: getattr(context, entry.name) for entry in fields(context)}
    on_device = {name: v.to(device) for name, v in entries.items() if isinstance(v, torch.Tensor | GaussianScene)}
    if context.renderings is not None:
        shown = {name: part.to(device) for name, part in vars(context.renderings).items()}
        on_device["renderings"] = Renderings(**shown)
    return replace(context, **on_device)


def steps(
    optimizer: SceneOptimizer,
    scene: GaussianScene,
    state: OptimizerState,
    span: range,
    order: torch.Tensor | None = None,
) -> tuple[GaussianScene, OptimizerState]:
    """Updates with gradients that belong to the Gaussians of ``order`` among 64."""
    order = torch.arange(len(scene)) if order is None else order
    for step in span:
        grads = random_scene(64, seed=step + 50, dtype=scene.means.dtype).take(order)
        ctx = with_model(context(optimizer, step, order, scene.means.dtype), optimizer, scene, grads, order)
        update, state = optimizer.update(grads, state, scene, ctx)
        scene = apply_update(scene, update)
    return scene, state


def assert_equal(one: GaussianScene, two: GaussianScene) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, getattr(two, name)), name


def assert_states_equal(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_types_are_kept_and_arguments_untouched(name: str, dtype: torch.dtype) -> None:
    optimizer, scene = make(name), random_scene(COUNT, dtype=dtype)
    before = scene.map(torch.clone)
    state = optimizer.init(scene)
    grads = random_scene(COUNT, seed=1, dtype=dtype)
    grads_before = grads.map(torch.clone)
    order = torch.arange(COUNT)
    ctx = with_model(context(optimizer, 0, order, dtype), optimizer, scene, grads, order)
    update, new_state = optimizer.update(grads, state, scene, ctx)
    assert_equal(scene, before)
    assert_equal(grads, grads_before)
    for parameter, tensor in update.items():
        assert tensor.shape == getattr(scene, parameter).shape
        assert tensor.dtype == dtype, parameter
        assert (float(tensor.abs().max()) > 0) == (name not in AT_REST), parameter
    for key, rows in new_state.rows.items():
        assert rows.shape[0] == COUNT, key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_permuting_gaussians_permutes_the_result(name: str) -> None:
    optimizer, scene = make(name), random_scene(COUNT)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    plain, _ = steps(optimizer, scene, optimizer.init(scene), range(4))
    shuffled, _ = steps(optimizer, scene.take(order), optimizer.init(scene.take(order)), range(4), order)
    for parameter, tensor in plain.take(order).items():
        torch.testing.assert_close(tensor, getattr(shuffled, parameter), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_follow_a_lineage(name: str) -> None:
    """A pure permutation in mid-run goes on as if the scene had had that order from the start."""
    optimizer, scene = make(name), random_scene(COUNT)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    early, state = steps(optimizer, scene, optimizer.init(scene), range(3))
    state = optimizer.reindex(state, Lineage(order, torch.zeros(COUNT, dtype=torch.bool)))
    carried, _ = steps(optimizer, early.take(order), state, range(3, 6), order)
    plain, _ = steps(optimizer, scene, optimizer.init(scene), range(6))
    for parameter, tensor in plain.take(order).items():
        torch.testing.assert_close(tensor, getattr(carried, parameter), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_births_and_deaths_keep_the_survivors_rows(name: str) -> None:
    optimizer, scene = make(name), random_scene(COUNT)
    later, state = steps(optimizer, scene, optimizer.init(scene), range(3))
    parent = torch.tensor([0, 2, 2, 5, 7, 8, 8])
    fresh = torch.tensor([False, False, True, False, False, False, True])
    moved = optimizer.reindex(state, Lineage(parent, fresh))
    for key, rows in moved.rows.items():
        assert torch.equal(rows[~fresh], state.rows[key][parent[~fresh]]), key
        assert rows.shape[0] == len(parent), key
    assert_states_equal(moved.shared, state.shared)
    grown, _ = steps(optimizer, later.take(parent), moved, range(3, 5), parent)
    assert grown.is_finite()


@pytest.mark.parametrize(
    "name", [name for name in OPTIMIZERS if not name.startswith("torch-") and name not in SHARING | DECIDING]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_newborn_step_as_at_the_start_of_a_run(name: str, dtype: torch.dtype) -> None:
    """Neither longer nor shorter, to the bit. (Optimizers of torch correct their bias by the age of the run.)"""
    optimizer, scene = make(name), random_scene(COUNT, dtype=dtype)
    later, state = steps(optimizer, scene, optimizer.init(scene), range(40))
    everyone = Lineage(torch.arange(COUNT), torch.ones(COUNT, dtype=torch.bool))
    born, _ = steps(optimizer, later, optimizer.reindex(state, everyone), range(40, 44))
    anew, _ = steps(optimizer, later, optimizer.init(later), range(40, 44))
    assert_equal(born, anew)


@pytest.mark.parametrize("name", sorted(SHARING))
def test_what_is_shared_does_not_change_the_length_of_the_newborns_steps(name: str) -> None:
    optimizer, scene = make(name), random_scene(COUNT)
    later, state = steps(optimizer, scene, optimizer.init(scene), range(40))
    everyone = Lineage(torch.arange(COUNT), torch.ones(COUNT, dtype=torch.bool))
    born, _ = steps(optimizer, later, optimizer.reindex(state, everyone), range(40, 41))
    anew, _ = steps(optimizer, later, optimizer.init(later), range(40, 41))
    for parameter, before in later.items():
        one, two = (float((getattr(after, parameter) - before).square().mean().sqrt()) for after in (born, anew))
        assert one == pytest.approx(two, rel=0.25), parameter


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "resplat" not in name])  # keeps nothing per parameter
def test_a_restart_of_the_opacities_concerns_only_them(name: str) -> None:
    optimizer, scene = make(name), random_scene(COUNT)
    _, state = steps(optimizer, scene, optimizer.init(scene), range(3))
    after = optimizer.reindex(state, replace(Lineage.identity(COUNT), restarted=frozenset({"logit_opacities"})))
    for key, rows in state.rows.items():
        expected = torch.zeros_like(rows) if key.endswith("logit_opacities") else rows
        assert torch.equal(after.rows[key], expected), key
    assert any(key.endswith("logit_opacities") for key in state.rows)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_resumed_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    optimizer, scene = make(name), random_scene(COUNT, dtype=torch.float32)
    middle, state = steps(optimizer, scene, optimizer.init(scene), range(4))
    tensors = {f"rows/{k}": v for k, v in state.rows.items()} | {f"shared/{k}": v for k, v in state.shared.items()}
    checkpoint.save(tmp_path / "state", "test", tensors, {})
    loaded, _ = checkpoint.load(tmp_path / "state", "test")
    restored = OptimizerState(
        {k.removeprefix("rows/"): v for k, v in loaded.items() if k.startswith("rows/")},
        {k.removeprefix("shared/"): v for k, v in loaded.items() if k.startswith("shared/")},
    )
    straight, straight_state = steps(optimizer, middle, state, range(4, 8))
    resumed, resumed_state = steps(make(name), middle, restored, range(4, 8))
    assert_equal(straight, resumed)
    assert_states_equal(straight_state.rows, resumed_state.rows)
    assert_states_equal(straight_state.shared, resumed_state.shared)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in MODELLED])
@pytest.mark.parametrize("training", [False, True])
def test_everything_stays_on_the_scenes_device_and_no_step_waits_for_it(name: str, training: bool) -> None:
    """The meta device refuses to mix with the CPU and has no values to hand out."""
    optimizer, order = make(name), torch.arange(COUNT)
    to_device(optimizer, "meta")
    if isinstance(optimizer, torch.nn.Module):
        optimizer.train(training)
    scene, grads = random_scene(COUNT).to("meta"), random_scene(COUNT).to("meta")
    state = optimizer.init(scene)
    on_cpu = context(optimizer, 0, order, torch.float64)
    for step in range(2):
        update, state = optimizer.update(grads, state, scene, moved(replace(on_cpu, step=step), "meta"))
        assert {tensor.device.type for tensor in (*update.tensors(), *state.rows.values())} == {"meta"}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in DECAYING])
def test_zero_gradients_move_nothing(name: str) -> None:
    optimizer, scene = make(name), random_scene(COUNT)
    grads = scene.map(torch.zeros_like)
    order = torch.arange(COUNT)
    ctx = with_model(context(optimizer, 0, order, torch.float64), optimizer, scene, grads, order)
    update, _ = optimizer.update(grads, optimizer.init(scene), scene, ctx)
    for parameter, tensor in update.items():
        assert float(tensor.abs().max()) == 0, parameter


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != READING])
def test_unknown_keys_are_refused_by_name(name: str) -> None:
    top, group = ("meta_train", "trainee") if name in choices("trainee") else ("optimize", "optimizer")
    config = compose(top, [f"{group}={name}", f"+{group}.no_such_setting=1"])
    with pytest.raises(BadConfigError, match="no_such_setting"):
        build(config[group])
    with pytest.raises(BadConfigError, match="no_such_setting"):
        compose(top, [f"{group}={name}", f"{group}.no_such_setting=1"])


@pytest.mark.parametrize("name", [name for name in choices("trainee") if name not in AT_REST])
def test_untrained_learned_optimizers_are_tuned_adam_to_the_bit(name: str) -> None:
    scene = random_scene(COUNT, dtype=torch.float32)
    base, rule = make("adam-tuned"), make(name)
    one, _ = steps(base, scene, base.init(scene), range(6))
    two, _ = steps(rule, scene, rule.init(scene), range(6))
    assert_equal(one, two)
