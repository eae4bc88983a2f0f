"""What is optimised: a scene in a setting, and what all methods are given of it alike."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.sources import load_scene
from learn2splat.data.views import choose_views
from learn2splat.errors import UserError
from learn2splat.losses import PhotometricLoss
from learn2splat.render.base import Renderer
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss
from learn2splat.start import start_prediction


@dataclass(frozen=True)
class Task:
    """What all methods are given alike; see ``configs/optimize.yaml`` for the fields."""

    scene: str
    seed: int = 0
    views: str = "dense"
    init: str = "auto"
    max_size: int = 128
    max_gaussians: int | None = 2000
    sh_degree: int = 3
    batch_views: int = 4
    test_every: int = 8

    @property
    def key(self) -> str:
        """The task as text, equal for equal tasks."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_key(cls, key: str) -> Task:
        """The inverse of `key`."""
        return cls(**json.loads(key))

    @property
    def setting(self) -> str:
        """Views, and the initialisation when it is named: "dense", "sparse:3", "dense+random", ..."""
        return self.views if self.init == "auto" else f"{self.views}+{self.init}"

    def under(self, setting: str) -> Task:
        """The same task in another `setting`."""
        views, _, init = setting.partition("+")
        return replace(self, views=views, init=init or "auto")


@dataclass(frozen=True)
class Start:
    """What all methods of a task are given.

    Args:
        task: as asked.
        loss: photos, renderer and loss.
        train, test: views to optimise on, and held-out ones.
        scene: the initial Gaussians.
        features: [N, C] what an initialiser knows about them, or None.
    """

    task: Task
    loss: SceneLoss
    train: list[int]
    test: list[int]
    scene: GaussianScene
    features: Tensor | None = None

    @property
    def shown(self) -> int:
        """The held-out view whose picture is kept."""
        return self.test[len(self.test) // 2]

    @property
    def digest(self) -> str:
        """Changes whenever photos, masks, cameras, split, initial Gaussians or renderer do."""
        data, renderer = self.loss.data, self.loss.renderer
        names = [type(renderer).__name__, str(renderer.settings), str(self.train), str(self.test)]
        cameras = data.cameras.take([*self.train, *self.test])
        photos = [data.photos[view] for view in (*self.train, *self.test)]
        masks = [] if data.masks is None else [data.masks[view] for view in (*self.train, *self.test)]
        content = hashlib.sha256("|".join(names).encode())
        for tensor in (cameras.K, cameras.cam_from_world, *photos, *masks, *self.scene.tensors()):
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


def prepare(
    task: Task,
    renderer: Renderer,
    data: SceneData | None = None,
    device: torch.device | str = "cpu",
    background: Tensor | None = None,
) -> Start:
    """Load the scene of ``task`` (unless ``data`` is it) and initialise it on ``device``, before ``background`` [3].

    Raises:
        UserError: the scene cannot be loaded or initialised as asked, or holds out no view.
    """
    data = data or load_scene(task.scene, max_size=task.max_size, test_every=task.test_every)
    train, test = choose_views(data, task.views, task.seed)
    if not test:
        raise UserError(f"{data.name}: no view is held out, so nothing can be measured; lower test_every")
    loss = SceneLoss(data, renderer, PhotometricLoss(), background, device)
    found = start_prediction(
        data,
        train,
        task.init,
        sh_degree=task.sh_degree,
        max_gaussians=task.max_gaussians,
        seed=task.seed,
        scene_loss=loss,
    )
    features = None if found.features is None else found.features.to(device)
    return Start(task, loss, train, test, found.scene.to(device), features)
