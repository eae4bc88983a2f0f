"""The recurrent updater: at rest untrained and where nothing is wrong, symmetries, no gradients, training signal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from learn2splat.cameras import Cameras
from learn2splat.data.views import RandomViews
from learn2splat.densify.adaptive import AdaptiveDensityControl
from learn2splat.densify.base import Growth
from learn2splat.errors import UserError
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.learner import run_window
from learn2splat.meta.life import Life
from learn2splat.meta.objective import Discounted
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import NEIGHBOURS, Renderings, StepContext, first_state
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.optim.learned.slopes import slopes
from learn2splat.optim.wrapped import Wrapped
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.neighbours import nearest_neighbours
from learn2splat.scene_loss import SceneLoss
from tests.conftest import random_scene, ring_cameras
from tests.scene.test_frame import a_frame, moved_cameras
from tests.test_rollout import capture

N = 30
CAMERAS = ring_cameras(3, 24, 16)


BOTH = pytest.mark.parametrize("gradients", [False, True])


def updater(gradients: bool = False, trained: bool = True) -> RecurrentUpdater:
    """A small one; "trained" ones have random weights where untrained ones have zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = RecurrentUpdater(width=16, blocks=1, gradients=gradients).double()
        if trained:
            for parameter in net.parameters():
                if float(parameter.detach().abs().max()) == 0:
                    torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def context(scene: GaussianScene, cameras: Cameras = CAMERAS, length: float = 1.0, right: bool = False) -> StepContext:
    """Of a step at which the photos are noise, or (``right``) what is rendered; ``length`` is that of the world."""
    images = torch.rand(3, 16, 24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, depth = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    photos = images if right else images.flip(1)
    shown = Renderings(cameras, photos, images, alpha, 4 * length * alpha * (0.5 + depth))
    near = nearest_neighbours(scene.means, NEIGHBOURS)
    visible = torch.ones(len(scene), dtype=torch.bool)
    return StepContext(0, 4, 3, 3, 1.0, visible, 0.2, neighbours=near, renderings=shown)


def noise(count: int = N, degree: int = 1) -> GaussianScene:
    """Gradients that fall off over three decades, some of them zero."""
    sizes = torch.logspace(-5, -2, count, dtype=torch.float64) * (torch.arange(count) % 5 > 0)
    scene = random_scene(count, seed=9, degree=degree)
    return scene.map(lambda tensor: tensor * sizes.reshape(-1, *[1] * (tensor.ndim - 1)))


def step(
    net: RecurrentUpdater, scene: GaussianScene, given: StepContext, grads: GaussianScene | None = None
) -> GaussianScene:
    """The second update: the hidden state is not zero any more."""
    grads = noise(len(scene), scene.sh_degree) if grads is None else grads
    _, state = net.update(grads, net.init(scene), scene, given)
    update, _ = net.update(grads, state, scene, given)
    return update


def assert_close(found: GaussianScene, expected: GaussianScene) -> None:
    for name, tensor in expected.items():
        assert float(tensor.abs().max()) > 1e-4, name
        torch.testing.assert_close(getattr(found, name), tensor, rtol=0, atol=1e-9)


def rollout(net: RecurrentUpdater, renderer: Any, growth: Growth = Growth()) -> Rollout:
    data = capture()
    scene = random_scene(N, degree=1).to(dtype=torch.float32)
    loss = SceneLoss(data, renderer, PhotometricLoss())
    sampler = RandomViews(data.cameras, list(data.train), 2, 0)
    state = RolloutState.start(scene, net, densifier=growth.densifier)
    return Rollout(loss, data.train, net, sampler, state, growth=growth)


@BOTH
def test_untrained_it_leaves_the_scene_as_it_is_to_the_bit(gradients: bool) -> None:
    one = rollout(updater(gradients, trained=False).float(), ReferenceRenderer())
    before = one.state.scene
    assert len(list(one.run(2))) == 2
    for name, tensor in before.items():
        assert torch.equal(getattr(one.state.scene, name), tensor), name
    assert float(one.state.optimizer.rows["latent"].abs().max()) > 0


@BOTH
def test_where_nothing_is_wrong_nothing_moves(gradients: bool) -> None:
    scene, net = random_scene(N), updater(gradients)
    for tensor in step(net, scene, context(scene, right=True)).tensors():
        assert float(tensor.abs().max()) == 0


@BOTH
def test_permuting_gaussians_and_views_changes_nothing_else(gradients: bool) -> None:
    scene, net = random_scene(N), updater(gradients)
    plain = step(net, scene, context(scene))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = scene.take(order)
    found = step(net, shuffled, context(shuffled), noise(degree=scene.sh_degree).take(order))
    assert_close(found, plain.take(order))
    given = context(scene)
    assert given.renderings is not None
    views = torch.tensor([2, 0, 1])
    turned = {
        name: part.take(views) if isinstance(part, Cameras) else part[views]
        for name, part in vars(given.renderings).items()
    }
    assert_close(step(net, scene, replace(given, renderings=Renderings(**turned))), plain)


@BOTH
def test_updates_move_turn_and_grow_with_the_world(gradients: bool) -> None:
    scene, net, frame = random_scene(N), updater(gradients), a_frame()
    plain = step(net, scene, context(scene))
    there = frame.scene(scene)
    length = 1 / float(frame.unit_world)
    slope = frame.gradient(noise(degree=scene.sh_degree))
    found = step(net, there, context(there, moved_cameras(CAMERAS, frame), length), slope)
    back = frame.update_world(found)
    assert_close(back, plain)


@BOTH
def test_quaternions_of_either_sign_and_any_norm_turn_alike(gradients: bool) -> None:
    scene, net = random_scene(N), updater(gradients)
    factor = torch.where(torch.arange(N) % 2 == 0, -3.0, 0.5).double()[:, None]
    other = replace(scene, quats=scene.quats * factor)
    plain = step(net, scene, context(scene))
    slope = noise(degree=scene.sh_degree)
    found = step(net, other, context(other), replace(slope, quats=slope.quats / factor))
    assert_close(found, replace(plain, quats=plain.quats * factor))


def test_the_unit_of_the_loss_does_not_count() -> None:
    scene, net = random_scene(N), updater(gradients=True)
    slope = noise(degree=scene.sh_degree)
    plain = step(net, scene, context(scene), slope)
    assert_close(step(net, scene, context(scene), slope.map(lambda tensor: 1e-3 * tensor)), plain)


def test_without_slopes_it_is_the_updater_that_reads_none() -> None:
    """To the bit: a gradient of zero is neither seen nor followed."""
    scene, net, free = random_scene(N), updater(gradients=True), updater()
    missing, unexpected = free.load_state_dict(net.state_dict(), strict=False)
    assert not missing
    assert {name.partition(".")[0] for name in unexpected} == {"descent"}
    flat = scene.map(torch.zeros_like)
    found, plain = (step(one, scene, context(scene), flat) for one in (net, free))
    for name, tensor in plain.items():
        assert torch.equal(getattr(found, name), tensor), name
    assert not torch.equal(step(net, scene, context(scene)).means, plain.means)


def test_slopes_of_unseen_gaussians_do_not_tell_what_is_typical() -> None:
    gradient, visible = torch.randn(N, 4, dtype=torch.float64), torch.arange(N) % 3 > 0
    louder = torch.where(visible[:, None], gradient, 100 * gradient)
    for one, other in zip(slopes(gradient, [1, 3], visible), slopes(louder, [1, 3], visible), strict=True):
        assert torch.equal(one[visible], other[visible])
    uphill, steepness = slopes(gradient, [1, 3], visible)
    torch.testing.assert_close(uphill[:, 1:].norm(dim=1), steepness[:, 1])
    cosine = torch.nn.functional.cosine_similarity(uphill[:, 1:], gradient[:, 1:])
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_harmonics_above_the_first_stay() -> None:
    scene, net = random_scene(N, degree=3), updater()
    update = step(net, scene, context(scene))
    assert float(update.sh[:, 4:].abs().max()) == 0
    assert float(update.sh[:, :4].abs().max()) > 0


def test_what_an_initialiser_knows_starts_the_hidden_state() -> None:
    scene, net = random_scene(N), updater()
    features = torch.randn(N, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = first_state(net, scene, features)
    assert torch.equal(state.rows["latent"], net.start(features))
    assert not state.rows["latent"].requires_grad
    assert float(first_state(net, scene, None).rows["latent"].abs().max()) == 0
    assert first_state(Adam(), scene, features).rows.keys() == Adam().init(scene).rows.keys()
    with pytest.raises(UserError, match="5 features per Gaussian are those of another initialiser"):
        first_state(net, scene, features[:, :5])


def test_neighbours_are_those_of_every_iteration() -> None:
    """R3: of the present scene, and as brute force finds them."""
    one = rollout(updater().float(), ReferenceRenderer())
    for _ in range(3):
        means = one.state.scene.means
        one.step()
        assert one.state.neighbours is not None
        distances = torch.cdist(means.double(), means.double()).fill_diagonal_(torch.inf)
        assert torch.equal(one.state.neighbours.long(), distances.argsort(dim=1)[:, :NEIGHBOURS])


def test_nearest_of_two_thousand_points_are_those_of_brute_force() -> None:
    means = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.cdist(means, means).fill_diagonal_(torch.inf).argsort(dim=1)[:, :NEIGHBOURS]
    assert torch.equal(nearest_neighbours(means, NEIGHBOURS).long(), expected)


class ForwardRenderer(ReferenceRenderer):
    """Refuses to differentiate."""

    def linearise(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("a gradient was asked for")


def test_nothing_is_differentiated_at_test_time() -> None:
    one = rollout(updater().float(), ForwardRenderer())
    before = one.state.scene
    assert len(list(one.run(2))) == 2
    assert not torch.equal(one.state.scene.means, before.means)
    assert not one.state.optimizer.rows["latent"].requires_grad


def test_gradients_are_those_of_the_views_that_are_rendered() -> None:
    one = rollout(updater(gradients=True).float(), ReferenceRenderer())
    given: list[Any] = []

    class Recording(Wrapped):
        def update(self, *arguments: Any) -> Any:
            given.extend(arguments)
            return self.optimizer.update(*arguments)

    one.optimizer = Recording(one.optimizer)
    expected = one.scene_loss.gradient(one.state.scene, one.train)
    free = one.scene_loss.rendered(one.state.scene, one.train)
    one.step()
    grads, _, _, seen = given
    assert seen.batch_views == len(one.train)
    for name, tensor in expected.grads.items():
        assert torch.equal(getattr(grads, name), tensor), name
    for name, part in vars(free.renderings).items():
        assert isinstance(part, Cameras) or torch.equal(getattr(seen.renderings, name), part), name
    assert not one.state.optimizer.rows["latent"].requires_grad


def test_a_densifier_that_watches_gradients_is_refused_without_them() -> None:
    with pytest.raises(UserError, match="mcmc"):
        rollout(updater().float(), ReferenceRenderer(), Growth(AdaptiveDensityControl()))
    assert rollout(updater(gradients=True).float(), ReferenceRenderer(), Growth(AdaptiveDensityControl())).step()


def life(net: RecurrentUpdater) -> Life:
    """In float64."""
    data = capture()
    data = replace(data, train=data.train[:2], test=data.train[2:4])
    scene = random_scene(N, degree=1)
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    sampler = RandomViews(data.cameras, list(data.train), 2, 0)
    return Life(Rollout(loss, data.train, net, sampler, RolloutState.start(scene, net)), 4, "test")


@BOTH
def test_the_training_signal_of_one_iteration_is_the_derivative_of_the_held_out_loss(gradients: bool) -> None:
    net = updater(gradients).train()
    objective = Discounted(held_views=2)
    run_window(life(net), 1, 0, objective, 0.0, seed=0).loss.backward()
    generator = torch.Generator().manual_seed(0)
    trained = [p for p in net.parameters() if p.requires_grad]
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(trained, directions, strict=True) if p.grad is not None)
    losses = []
    for shift in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, direction in zip(trained, directions, strict=True):
                parameter += shift * direction
        losses.append(float(run_window(life(net), 1, 0, objective, 0.0, seed=0).loss.detach()))
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-3)
    assert all(parameter.grad is None for parameter in net.pyramid.parameters())


def test_a_life_costs_the_discounted_mean_of_its_losses_and_credit_crosses_its_iterations() -> None:
    net = updater().train()
    found = run_window(life(net), 3, 0, Discounted(held_views=2, discount=0.5), 0.0, seed=0).loss
    one, losses = life(net.eval()), []
    for _ in range(3):
        one.rollout.step()
        losses.append(one.rollout.scene_loss.value(one.rollout.state.scene, one.held))
    expected = (0.25 * losses[0] + 0.5 * losses[1] + losses[2]) / 1.75
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)
    latent = life(net.train())
    start = latent.rollout.state.optimizer.rows["latent"].requires_grad_(True)
    run_window(latent, 3, 0, Discounted(held_views=2, discount=0.0), 0.0, seed=0).loss.backward()
    assert start.grad is not None
    assert float(start.grad.abs().max()) > 0
