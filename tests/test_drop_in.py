"""In somebody else's trainer: the same steps as in ours, and rows that follow clone, split and prune."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import learn2splat as l2s
from learn2splat.cameras import Cameras
from learn2splat.config import build, choices, compose
from learn2splat.drop_in import GroupOptimizer, TorchSceneOptimizer
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import SceneOptimizer
from learn2splat.render.base import RenderOutput
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene_loss import SceneLoss
from tests.test_rollout import capture, start_scene


def parameters(scene: GaussianScene) -> dict[str, torch.nn.Parameter]:
    """As gsplat's trainers keep them."""
    values = {
        "means": scene.means,
        "scales": scene.log_scales,
        "quats": scene.quats,
        "opacities": scene.logit_opacities,
        "sh0": scene.sh[:, :1],
        "shN": scene.sh[:, 1:],
    }
    return {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}


def scene_of(params: dict[str, torch.nn.Parameter]) -> GaussianScene:
    sh = torch.cat([params["sh0"], params["shN"]], dim=1)
    return GaussianScene(params["means"], params["scales"], params["quats"], params["opacities"], sh)


def tuned(name: str) -> SceneOptimizer:
    if name in choices("trainee"):
        trainee: SceneOptimizer = build(compose("meta_train", [f"trainee={name}"]).trainee).eval()
        return trainee
    adam: Adam = build(compose("optimize", [f"optimizer={name}"]).optimizer)
    return adam


def backward(params: dict[str, torch.nn.Parameter], view: int) -> float:
    """Render one view through autograd and differentiate the loss, as any trainer would."""
    data = capture()
    cameras: Cameras = data.cameras.take([view])
    output: RenderOutput = ReferenceRenderer().render(scene_of(params), cameras)
    terms = PhotometricLoss()(output.image.detach(), data.photos[view][None].float() / 255)
    output.image.backward(terms.image_gradient)
    return terms.loss


@pytest.mark.parametrize("name", ["adam", "adam-tuned", "adam-visible-tuned", "adafactor", "soap", "learned-rule"])
def test_the_steps_are_those_of_the_inner_loop(name: str) -> None:
    data = capture()
    start = start_scene().with_sh_degree(1)
    params = parameters(start)
    facade = TorchSceneOptimizer(params, tuned(name), data.cameras.take(list(data.train)), horizon=10)
    from learn2splat.data.views import RandomViews
    from learn2splat.rollout import Rollout
    from learn2splat.rollout_state import RolloutState

    optimizer = tuned(name)
    loss = SceneLoss(data, ReferenceRenderer(), PhotometricLoss())
    sampler = RandomViews(data.cameras, list(data.train), 1, seed=0)
    rollout = Rollout(loss, list(data.train), optimizer, sampler, RolloutState.start(start, optimizer), horizon=10)
    order = RandomViews(data.cameras, list(data.train), 1, seed=0)
    for _ in range(6):
        rollout.step()
        facade.zero_grad()
        facade.step(loss=backward(params, order.draw()[0]))
    for tensor, (field, ours) in zip(scene_of(params).tensors(), rollout.state.scene.items(), strict=True):
        torch.testing.assert_close(tensor.detach(), ours, rtol=1e-4, atol=1e-5, msg=field)


def edit(
    params: dict[str, torch.nn.Parameter],
    groups: dict[str, GroupOptimizer],
    change_value: Callable[[str, Tensor], Tensor],
    change_state: Callable[[Tensor], Tensor],
) -> None:
    """What densification strategies do to parameters and to every state tensor but one named "step"."""
    for name, group in groups.items():
        old = group.param_groups[0]["params"][0]
        new = torch.nn.Parameter(change_value(name, old.detach()))
        state = group.state.pop(old)
        for key, value in list(state.items()):
            if key != "step":
                assert value.shape[0] == old.shape[0], (name, key)
                state[key] = change_state(value)
        group.param_groups[0]["params"] = [new]
        group.state[new] = state
        params[name] = new


@pytest.mark.parametrize("name", ["adam-tuned", "adam-visible-tuned", "learned-rule", "l2s-tiny"])
def test_two_hundred_steps_with_clone_split_and_prune(name: str) -> None:
    data = capture()
    params = parameters(start_scene().with_sh_degree(1))
    facade = TorchSceneOptimizer(params, tuned(name), data.cameras.take(list(data.train)))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(200):
        facade.zero_grad()
        losses.append(backward(params, 1 + step % 5))
        facade.step()
        count = len(params["means"])
        if step in (50, 100):  # clone every third Gaussian; newborn state is zero
            picked = torch.arange(0, count, 3)
            edit(
                params,
                facade.by_group,
                lambda _, value, rows=picked: torch.cat([value, value[rows]]),  # type: ignore[misc]
                lambda state, rows=picked: torch.cat([state, torch.zeros_like(state[rows])]),  # type: ignore[misc]
            )
        if step == 75:  # split: the parents go, two smaller children come
            parents = torch.arange(0, count, 4)
            rest = torch.tensor([row for row in range(count) if row % 4])

            def split(field: str, value: Tensor, rest: Tensor = rest, parents: Tensor = parents) -> Tensor:
                children = torch.cat([value[parents], value[parents]])
                if field == "scales":
                    children = children - 0.47
                if field == "means":
                    children = children + 0.02 * torch.randn(children.shape, generator=generator)
                return torch.cat([value[rest], children])

            edit(
                params,
                facade.by_group,
                split,
                lambda state, a=rest, b=parents: torch.cat(
                    [state[a], torch.zeros_like(state[b]).repeat(2, *[1] * (state.ndim - 1))]
                ),  # type: ignore[misc]
            )
        if step == 150:  # prune
            keep = params["opacities"].detach() > -4
            keep[: count // 10] = False
            edit(params, facade.by_group, lambda _, value, k=keep: value[k], lambda state, k=keep: state[k])  # type: ignore[misc]
    counts = {len(parameter) for parameter in params.values()}
    assert len(counts) == 1
    assert counts != {20}
    assert scene_of(params).detach().is_finite()
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


@pytest.mark.parametrize("name", ["adam-tuned", "learned-rule", "l2s-tiny"])
def test_a_lineage_and_the_edits_of_a_strategy_come_to_the_same(name: str) -> None:
    """But for what the newborn inherit by our policy, and start without by that of strategies."""
    cameras = capture().cameras
    both = []
    parent = torch.tensor([*range(3, 20), 4, 9])
    fresh = torch.arange(19) >= 17
    for by_lineage in (True, False):
        params = parameters(start_scene())
        facade = TorchSceneOptimizer(params, tuned(name), cameras)
        for step in range(3):
            facade.zero_grad()
            backward(params, 1 + step)
            facade.step()
        if by_lineage:
            params |= {key: torch.nn.Parameter(value.detach()[parent]) for key, value in params.items()}
            facade.reindex(Lineage(parent, fresh))
        else:
            edit(
                params,
                facade.by_group,
                lambda _, value: value[parent],
                lambda state: torch.where(fresh.view(-1, *[1] * (state.ndim - 1)), 0, state[parent]),
            )
        facade.zero_grad()
        backward(params, 2)
        facade.step()
        both.append((params, facade))
    for key, value in both[0][0].items():
        assert torch.equal(value, both[1][0][key]), key


def test_state_dict_goes_on_to_the_same_bits() -> None:
    data = capture()
    cameras = data.cameras.take(list(data.train))
    one_params = parameters(start_scene())
    one = TorchSceneOptimizer(one_params, tuned("learned-rule"), cameras)
    for step in range(4):
        one.zero_grad()
        backward(one_params, 1 + step)
        one.step()
    two_params = {name: torch.nn.Parameter(p.detach().clone()) for name, p in one_params.items()}
    two = TorchSceneOptimizer(two_params, tuned("learned-rule"), cameras)
    two.load_state_dict(one.state_dict())
    for params, facade in ((one_params, one), (two_params, two)):
        facade.zero_grad()
        backward(params, 2)
        facade.step()
    for name, parameter in one_params.items():
        assert torch.equal(parameter, two_params[name]), name


def test_the_public_name_and_its_errors() -> None:
    data = capture()
    params = parameters(start_scene())
    assert isinstance(l2s.torch_optimizer(params, cameras=data.cameras), TorchSceneOptimizer)
    with pytest.raises(ValueError, match="shN"):
        l2s.torch_optimizer({k: v for k, v in params.items() if k != "shN"}, cameras=data.cameras)
    with pytest.raises(ValueError, match="no-such"):
        l2s.torch_optimizer(params, cameras=data.cameras, optimizer="no-such")
