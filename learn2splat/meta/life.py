"""One optimisation under way in meta-training, in memory and as an entry of the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.config import build, compose
from learn2splat.data.base import SceneData
from learn2splat.data.resize import PhotoStack
from learn2splat.data.views import RandomViews
from learn2splat.densify.base import STANDARD_STEPS, Densifier, Growth
from learn2splat.losses import PhotometricLoss
from learn2splat.meta.buffer import Entry
from learn2splat.meta.tasks import Task
from learn2splat.optim.base import SceneOptimizer, to_device
from learn2splat.render.base import Renderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_checkpoint import pack_rollout, unpack_rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene_loss import SceneLoss

GROWTH_NUMBERS = ("horizon", "max_gaussians", "seed", "sh_every")
SH_STEPS = 1000
"""Steps between two degrees of harmonics in a standard run, which lives are scaled to."""


@dataclass
class Life:
    """A task that is being optimised.

    Args:
        rollout: the inner loop, between two steps.
        ends_at: step at which the life is over.
        origin: name of the scene it comes from.
        densify: the file of ``configs/densify`` that its densifier is built from.
    """

    rollout: Rollout
    ends_at: int
    origin: str
    densify: str = "none"

    @property
    def step(self) -> int:
        """Updates made so far."""
        return self.rollout.state.step

    @property
    def held(self) -> list[int]:
        """Views that judge the optimizer."""
        return list(self.rollout.scene_loss.data.test)


def begin(
    task: Task,
    optimizer: SceneOptimizer,
    renderer: Renderer,
    ends_at: int,
    device: torch.device | str = "cpu",
    horizon: int | None = None,
) -> Life:
    """A life at its first step; schedules may ask for its ``horizon``, which need not be where it ends."""
    loss = SceneLoss(task.data, renderer, PhotometricLoss(), task.background, device)
    train = list(task.data.train)
    sampler = RandomViews(task.data.cameras, train, task.batch_views, task.seed)
    sh_every = SH_STEPS * ends_at // STANDARD_STEPS if task.sh_steps else 0
    growth = Growth(densifier(task.densify), ends_at, task.max_gaussians, task.seed, sh_every)
    features = None if task.features is None else task.features.to(device)
    to_device(optimizer, device)
    state = RolloutState.start(task.initial.to(device), optimizer, densifier=growth.densifier, features=features)
    rollout = Rollout(loss, train, optimizer, sampler, state, horizon, growth=growth)
    return Life(rollout, ends_at, task.data.name, task.densify)


def to_entry(life: Life) -> Entry:
    """Everything needed to go on with ``life`` to the same bits."""
    rollout = life.rollout
    data = rollout.scene_loss.data
    state, numbers = pack_rollout(rollout.state)
    sampler = rollout.sampler.state_dict()
    tensors: dict[str, Tensor] = {f"state/{name}": tensor for name, tensor in state.items()}
    tensors |= {f"photo/{view:04d}": data.photos[view] for view in range(len(data.photos))}
    if data.masks is not None:
        tensors |= {f"mask/{view:04d}": data.masks[view] for view in range(len(data.masks))}
    tensors |= {f"cameras/{name}": tensor for name, tensor in vars(data.cameras).items()}
    tensors |= {"generator": sampler.pop("generator"), "background": rollout.scene_loss.background}
    about: dict[str, Any] = {
        "rollout": numbers,
        "sampler": sampler,
        "train": list(data.train),
        "test": list(data.test),
        "ends_at": life.ends_at,
        "origin": life.origin,
        "densify": life.densify,
        "growth": {name: getattr(rollout.growth, name) for name in GROWTH_NUMBERS},
    }
    return Entry(life.step, tensors, about)


def from_entry(entry: Entry, optimizer: SceneOptimizer, renderer: Renderer, device: torch.device | str = "cpu") -> Life:
    """The inverse of `to_entry`."""
    about = entry.numbers
    photos, masks = _under("photo/", entry.tensors), _under("mask/", entry.tensors)
    data = SceneData(
        name=about["origin"],
        cameras=Cameras(**_under("cameras/", entry.tensors)),
        photos=PhotoStack(tuple(photos[name] for name in sorted(photos))),
        image_names=sorted(photos),
        points=None,
        train=about["train"],
        test=about["test"],
        masks=PhotoStack(tuple(masks[name] for name in sorted(masks))) if masks else None,
    )
    loss = SceneLoss(data, renderer, PhotometricLoss(), entry.tensors["background"], device)
    sampler = RandomViews(data.cameras, about["train"], about["sampler"]["batch"], seed=0)
    sampler.load_state_dict({**about["sampler"], "generator": entry.tensors["generator"]})
    tensors = {name: tensor.to(device) for name, tensor in _under("state/", entry.tensors).items()}
    state = unpack_rollout(tensors, about["rollout"])
    growth = Growth(densifier(about["densify"]), **about["growth"])
    rollout = Rollout(loss, about["train"], optimizer, sampler, state, growth=growth)
    return Life(rollout, about["ends_at"], about["origin"], about["densify"])


@cache
def densifier(name: str) -> Densifier:
    """The densifier of ``configs/densify/NAME.yaml``."""
    built: Densifier = build(compose("optimize", [f"densify={name}"]).densify)
    return built


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
