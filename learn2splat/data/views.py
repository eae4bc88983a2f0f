"""Which views are optimised on, which are held out, and in which order they are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.errors import UserError

MIN_BASELINE = 0.05
"""Least distance, in `view_features`, of a target from every context view: 5 % of the rig's radius, or 3 degrees."""


def train_test_split(count: int, test_every: int) -> tuple[list[int], list[int]]:
    """Hold out every n-th view, the first included, as Mip-NeRF 360 and 3DGS do.

    Args:
        count: number of views, in order of their names.
        test_every: n; 0 holds out none. A single view is kept for training.

    Returns:
        (train, test): ascending view indices; train is not empty unless ``count`` is 0.

    Raises:
        ValueError: ``test_every`` is negative or 1, which would leave nothing to optimise on.
    """
    if test_every < 0 or test_every == 1:
        raise ValueError(f"test_every={test_every}: give 0 (hold out none) or 2 and more (hold out every n-th view)")
    if test_every == 0 or count <= 1:
        return list(range(count)), []
    return [i for i in range(count) if i % test_every], list(range(0, count, test_every))


def view_features(cameras: Cameras) -> Tensor:
    """[V, 6] float64 whose distances tell views apart: centres in units of their spread, viewing directions."""
    centers = cameras.centers_world.double()
    centers = centers - centers.mean(dim=0)
    spread = centers.norm(dim=-1).max()
    directions = cameras.cam_from_world[:, 2, :3].double()
    return torch.cat([centers / spread.clamp(min=torch.finfo(spread.dtype).tiny), directions], dim=-1)


def middle_view(cameras: Cameras) -> Tensor:
    """[1] int64, the view that is closest to all others, whatever their order."""
    features = view_features(cameras)
    return torch.cdist(features, features).sum(dim=1).argmin(dim=0, keepdim=True)


def farthest_point_order(features: Tensor, count: int, start: int) -> list[int]:
    """``count`` rows of ``features`` [N, D], each the farthest from those before it, beginning with ``start``."""
    chosen = [start]
    nearest = (features - features[start]).norm(dim=-1)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).norm(dim=-1))
    return chosen


def sparse_views(scene: SceneData, k: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """A sparse-view task: few well-spread context views, measured on the held-out ones.

    A held-out view within `MIN_BASELINE` of a context view would be no test, as neighbouring frames of a film are
    nearly equal; if all are, the farthest is kept.

    Args:
        scene: the scene.
        k: number of context views.
        generator: chooses the first context view; the rest follows by farthest points over centres and directions.

    Returns:
        (context, targets): k ascending training views, and the test views with their baseline.

    Raises:
        ValueError: ``k`` is not between 1 and the number of training views.
    """
    available = len(scene.train)
    if not 1 <= k <= available:
        raise ValueError(f"sparse:{k} asks for {k} context views; scene {scene.name!r} has 1 to {available} to offer")
    features = view_features(scene.cameras.take(list(scene.train)))
    start = int(torch.randint(available, (), generator=generator))
    context = sorted(scene.train[i] for i in farthest_point_order(features, k, start))
    if not scene.test:
        return context, []
    features = view_features(scene.cameras)
    baselines = torch.cdist(features[list(scene.test)], features[context]).amin(dim=1)
    least = min(MIN_BASELINE, float(baselines.max()))
    return context, [view for view, baseline in zip(scene.test, baselines.tolist(), strict=True) if baseline >= least]


def choose_views(scene: SceneData, kind: str, seed: int) -> tuple[list[int], list[int]]:
    """(views to optimise on, held-out views) for ``kind`` "dense" or "sparse:K".

    Raises:
        UserError: ``kind`` is neither, or K is out of range.
    """
    if kind == "dense":
        return list(scene.train), list(scene.test)
    name, _, count = kind.partition(":")
    if name != "sparse" or not count.isdecimal():
        raise UserError(f"views={kind!r}: give 'dense', or 'sparse:K' with K context views, e.g. sparse:3")
    try:
        return sparse_views(scene, int(count), torch.Generator().manual_seed(seed))
    except ValueError as error:
        raise UserError(str(error)) from error


def probe_views(cameras: Cameras, train: Sequence[int]) -> tuple[list[int], list[int]]:
    """(views to optimise on, views that tell when a run begins to over-fit) out of few training views.

    One of 6 to 11 views, two of 12 to 16; none of fewer, which are all needed, nor of more, with which runs over-fit
    little. Chosen are those closest to their two nearest neighbours: the others miss them least, and an outlying view
    would tell of what no view has seen rather than of over-fitting.

    Args:
        cameras: all cameras of the scene, indexed by ``train``.
        train: the training views.
    """
    kept: list[int] = list(train)
    probe: list[int] = []
    for _ in range(0 if not 6 <= len(train) <= 16 else 1 if len(train) < 12 else 2):
        features = view_features(cameras.take(kept))
        nearest = torch.cdist(features, features).sort(dim=1).values[:, 1:3]
        probe.append(kept.pop(int(nearest.mean(dim=1).argmin())))
    return kept, sorted(probe)


class ViewSampler(ABC):
    """Draws batches of views; every view is used once per epoch, no view twice in a batch.

    Args:
        cameras: all cameras of the scene, indexed by ``views``.
        views: the view indices to draw from.
        batch: views per batch; capped at the number of views.
        seed: of the sampler's own generator.
    """

    def __init__(self, cameras: Cameras, views: Sequence[int], batch: int, seed: int) -> None:
        if not views or len(set(views)) != len(views):
            raise ValueError(f"a sampler needs one or more different views, got {list(views)}")
        if batch < 1:
            raise ValueError(f"batch={batch}: draw one view or more")
        self.views = list(views)
        self.batch = min(batch, len(self.views))
        self._remaining = list(range(len(self.views)))
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> list[int]:
        """The next batch: ``batch`` different view indices. Epochs may end within a batch."""
        rows: list[int] = []
        while len(rows) < self.batch:
            if not self._remaining:
                self._remaining = list(range(len(self.views)))
            row = self._choose([row for row in self._remaining if row not in rows], rows)
            self._remaining.remove(row)
            rows.append(row)
        return [self.views[row] for row in rows]

    @abstractmethod
    def _choose(self, candidates: list[int], rows: list[int]) -> int:
        """One of ``candidates`` (not empty) to join ``rows``, which are in the batch already."""

    def _random(self, candidates: list[int]) -> int:
        return candidates[int(torch.randint(len(candidates), (), generator=self._generator))]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on: lists of int and one tensor."""
        return {
            "views": list(self.views),
            "batch": self.batch,
            "remaining": list(self._remaining),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the sampler of ``state`` stood.

        Raises:
            ValueError: that sampler drew from other views or in other batches.
        """
        if list(state["views"]) != self.views or int(state["batch"]) != self.batch:
            raise ValueError(
                f"the saved sampler draws {state['batch']} of {len(state['views'])} views, "
                f"this one {self.batch} of {len(self.views)}: resume with the same scene, split and batch size"
            )
        self._remaining = [int(row) for row in state["remaining"]]
        self._generator.set_state(state["generator"].cpu())


class RandomViews(ViewSampler):
    """Shuffled epochs without replacement."""

    def _choose(self, candidates: list[int], rows: list[int]) -> int:
        return self._random(candidates)


class FarthestPointViews(ViewSampler):
    """Each batch spread out: a random view, then the farthest from the batch among those left in the epoch."""

    def __init__(self, cameras: Cameras, views: Sequence[int], batch: int, seed: int) -> None:
        super().__init__(cameras, views, batch, seed)
        self._features = view_features(cameras.take(self.views).to("cpu"))

    def _choose(self, candidates: list[int], rows: list[int]) -> int:
        if not rows:
            return self._random(candidates)
        gaps = torch.cdist(self._features[candidates], self._features[rows]).amin(dim=1)
        return candidates[int(gaps.argmax())]
