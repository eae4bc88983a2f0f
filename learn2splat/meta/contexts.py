"""Sparse-view training tasks: a few views that an initialiser sees, and others among them that judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.resize import PhotoStack, shrink
from learn2splat.data.views import farthest_point_order, view_features
from learn2splat.meta.tasks import Task
from learn2splat.predict.base import Initialiser
from learn2splat.predict.views import predicted
from learn2splat.scene.gaussians import GaussianScene


@dataclass(frozen=True)
class ContextRanges:
    """What is varied; pairs are (low, high).

    Args:
        views: context views.
        targets: views that judge.
        spread: context and targets are drawn from the so many times as many views that lie closest together.
        long_side: of the photos in pixels.
    """

    views: tuple[int, int] = (3, 6)
    targets: int = 4
    spread: tuple[float, float] = (1.0, 1.5)
    long_side: tuple[int, int] = (64, 96)

    def draw(self, scene: SceneData, generator: torch.Generator) -> SceneData:
        """``scene`` with context views as ``train`` and targets as ``test``; its smallest photos are of one size."""

        def between(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        data = shrink(scene, round(between(*self.long_side)))
        features = view_features(data.cameras)
        middle = int(torch.randint(len(features), (), generator=generator))
        sizes = torch.stack([data.cameras.widths, data.cameras.heights], dim=1)
        near = (features - features[middle]).norm(dim=1).argsort(stable=True)
        near = near[(sizes == sizes[middle]).all(dim=1)[near]]
        count = round(between(*self.views))
        pool = near[: max(count + 1, round(between(*self.spread) * (count + self.targets)))]
        if len(pool) <= count:
            raise ValueError(f"{scene.name}: {len(pool)} photos of one size are too few for {count} context views")
        start = int(torch.randint(len(pool), (), generator=generator))
        chosen = farthest_point_order(features[pool], count, start)
        left = [row for row in torch.randperm(len(pool), generator=generator).tolist() if row not in chosen]
        train, test = (sorted(pool[rows].tolist()) for rows in (chosen, left[: self.targets]))
        return replace(data, train=train, test=test)


class PredictedTasks:
    """Tasks that begin where a frozen initialiser ends.

    Args:
        contexts: their views.
        initialiser: of their Gaussians.
        share_corrupted: how often one context view is, after the prediction, no longer what the others show.
    """

    def __init__(self, contexts: ContextRanges, initialiser: Initialiser, share_corrupted: float = 0.0) -> None:
        self.contexts, self.initialiser, self.share_corrupted = contexts, initialiser, share_corrupted

    def draw(self, scene: SceneData, generator: torch.Generator) -> Task:
        """A task whose held-out views are the targets."""
        data = self.contexts.draw(scene, generator)
        found = predicted(data, data.train, self.initialiser)
        seed = int(torch.randint(2**31, (), generator=generator))
        if self.share_corrupted and float(torch.rand((), generator=generator)) < self.share_corrupted:
            data = corrupted(data, data.train[seed % len(data.train)], seed)
        return refinement(data, found.scene, seed, found.features)


def refinement(data: SceneData, predicted: GaussianScene, seed: int, features: Tensor | None = None) -> Task:
    """The task to go on from ``predicted`` with the views that an initialiser was shown, all of them at every step."""
    return Task(data, predicted, torch.zeros(3), batch_views=len(data.train), seed=seed, features=features)


PATCH = 0.5
"""Side of a corrupted patch, relative to the photo's."""


def corrupted(data: SceneData, view: int, seed: int) -> SceneData:
    """``data`` with a patch of the photo of ``view`` replaced by one colour, at a place that ``seed`` tells."""
    generator = torch.Generator().manual_seed(seed)
    photo = data.photos[view].clone()
    height, width = (round(PATCH * side) for side in photo.shape[:2])
    top, left = (
        int(torch.randint(photo.shape[axis] - side + 1, (), generator=generator))
        for axis, side in ((0, height), (1, width))
    )
    color = torch.randint(256, (3,), generator=generator, dtype=torch.uint8)
    photo[top : top + height, left : left + width, :3] = color
    photos = [data.photos[v] for v in range(len(data.photos))]
    photos[view] = photo
    return replace(data, photos=PhotoStack(tuple(photos)))
