"""Masked pixels have no part in losses, gradients and metrics: whatever they hold, every number stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.resize import PhotoStack
from learn2splat.eval.metrics import all_metrics, evaluate
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.life import begin, from_entry, to_entry
from learn2splat.meta.tasks import Task
from learn2splat.optim.adam import Adam
from learn2splat.render.base import Renderer
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.residuals import Residuals, RootPhotometric, SquaredError
from learn2splat.scene_loss import SceneLoss
from learn2splat.scene_model import SceneModel
from tests.test_rollout import VIEWS, assert_equal, capture, fast_adam, rollout, start_scene

HIDDEN = (slice(5, 15), slice(9, 24))


def masked(garbage: int = 0, everywhere: bool = False) -> SceneData:
    """`capture` with a box of noise in each photo, and masks over it, or masks that hide nothing."""
    data = capture()
    noise = torch.Generator().manual_seed(garbage)
    photos, masks = [], []
    for view in range(VIEWS):
        photo, mask = data.photos[view].clone(), torch.ones(24, 32, dtype=torch.bool)
        if not everywhere:
            photo[HIDDEN] = torch.randint(256, photo[HIDDEN].shape, generator=noise, dtype=torch.uint8)
            mask[HIDDEN] = False
        photos.append(photo)
        masks.append(mask)
    return replace(data, photos=PhotoStack(tuple(photos)), masks=PhotoStack(tuple(masks)))


def loss_on(data: SceneData, renderer: Renderer | None = None) -> SceneLoss:
    return SceneLoss(data, renderer or ReferenceRenderer(), PhotometricLoss())


def test_the_gradient_is_zero_under_the_mask_and_the_slope_elsewhere() -> None:
    loss, views = loss_on(masked()), [1, 2]
    generator = torch.Generator().manual_seed(3)
    image, change = (torch.rand(2, 24, 32, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    gradient = loss.compare(image, views).image_gradient
    assert (gradient[(slice(None), *HIDDEN)] == 0).all()
    assert (gradient != 0).sum() > 0.9 * 2 * 3 * (24 * 32 - 150)
    step = 1e-6 * change
    slope = (loss.compare(image + step, views).loss - loss.compare(image - step, views).loss) / 2e-6
    assert float((gradient * change).sum()) == pytest.approx(slope, rel=1e-5)
    elsewhere = image.clone()
    elsewhere[(slice(None), *HIDDEN)] = 9.0
    assert loss.compare(elsewhere, views).loss == loss.compare(image, views).loss


@pytest.mark.parametrize("renderer", [ReferenceRenderer, CpuRenderer])
def test_what_is_hidden_changes_nothing(renderer: Callable[[], Renderer]) -> None:
    scene, views = start_scene(), [0, 4]
    one, two = (loss_on(masked(garbage), renderer()) for garbage in (1, 2))
    left, right = one.gradient(scene, views), two.gradient(scene, views)
    assert_equal(left.grads, right.grads)
    assert (left.loss, left.l1, left.ssim) == (right.loss, right.l1, right.ssim)
    assert one.value(scene, views) == two.value(scene, views)
    assert one.psnr(scene, views) == two.psnr(scene, views)
    assert left.loss != loss_on(replace(masked(1), masks=None), renderer()).gradient(scene, views).loss


def test_what_is_hidden_changes_no_run() -> None:
    runs = [rollout(fast_adam(), masked(garbage)) for garbage in (1, 2)]
    for run in runs:
        list(run.run(4))
    assert_equal(runs[0].state.scene, runs[1].state.scene)


def test_masks_that_hide_nothing_are_none() -> None:
    scene, views = start_scene(), [0, 3]
    with_masks, without = loss_on(masked(everywhere=True)), loss_on(capture())
    assert_equal(with_masks.gradient(scene, views).grads, without.gradient(scene, views).grads)
    assert with_masks.psnr(scene, views) == without.psnr(scene, views)


def test_metrics_leave_out_what_is_hidden() -> None:
    metrics, _ = all_metrics(None)
    scene, loss = start_scene(), loss_on(masked(1))
    found = list(evaluate(scene, loss, range(VIEWS), metrics))
    others = list(evaluate(scene, loss_on(masked(2)), range(VIEWS), metrics))
    assert [view.scores for view in found] == [view.scores for view in others]
    difference = (found[2].image.double() - capture().photos[2] / 255.0)[~hidden()]
    assert found[2].scores["psnr"] == pytest.approx(float(-10 * difference.square().mean().log10()), abs=1e-4)
    psnr = [view.scores["psnr"] for view in found]
    assert loss.psnr(scene, range(VIEWS)) == pytest.approx(sum(filter(None, psnr)) / VIEWS, abs=1e-4)


def hidden() -> Tensor:
    result = torch.zeros(24, 32, dtype=torch.bool)
    result[HIDDEN] = True
    return result


@pytest.mark.parametrize("residuals", [SquaredError(), RootPhotometric(PhotometricLoss())])
def test_quadratic_models_leave_out_what_is_hidden(residuals: Residuals) -> None:
    scene, views = start_scene(), [1, 2]
    one, two = (SceneModel(loss_on(masked(garbage), CpuRenderer()), residuals, scene, views) for garbage in (1, 2))
    direction = one.gradient
    for left, right in ((direction, two.gradient), (one.product(direction), two.product(direction))):
        assert_equal(left, right)
    assert_equal(one.diagonal(), two.diagonal())
    assert one.value_at(scene) == pytest.approx(one.value, rel=1e-6)
    if isinstance(residuals, RootPhotometric):
        expected = loss_on(masked(1), CpuRenderer()).gradient(scene, views).grads
        for name, tensor in direction.items():
            assert torch.allclose(tensor, getattr(expected, name), rtol=1e-3, atol=1e-7), name


def test_masks_go_through_the_buffer() -> None:
    task = Task(masked(), start_scene(), torch.zeros(3), batch_views=2, seed=0)
    optimizer: Adam = fast_adam()
    life = begin(task, optimizer, ReferenceRenderer(), ends_at=4)
    again = from_entry(to_entry(life), optimizer, ReferenceRenderer())
    for one in (life, again):
        one.rollout.step()
    assert_equal(life.rollout.state.scene, again.rollout.state.scene)
    assert again.rollout.scene_loss.used([0]) is not None
