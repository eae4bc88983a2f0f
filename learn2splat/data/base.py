"""What a captured scene is, whatever format it came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.errors import UserError


class BadSceneError(UserError):
    """A scene on disk that cannot be used: the message names the file, what is wrong and what to do."""


@runtime_checkable
class EncodedPhotos(Protocol):
    """Photos that are decoded when they are asked for."""

    @property
    def bytes_to_come(self) -> int:
        """Most bytes that decoding all views, with their masks, adds to what this process holds."""
        ...


@dataclass(frozen=True)
class PointCloud:
    """Sparse points of a reconstruction.

    Args:
        positions_world: [P, 3] float32, world units.
        colors: [P, 3] float32, RGB in 0..1.
    """

    positions_world: Tensor
    colors: Tensor

    def __len__(self) -> int:
        return self.positions_world.shape[0]


class Photos(Protocol):
    """Photos of V views at the resolution of the cameras; decoding may happen on first use."""

    def __len__(self) -> int: ...

    def __getitem__(self, view: int) -> Tensor:
        """The photo of one view, uint8 [H, W, 3]."""
        ...


class Masks(Protocol):
    """Which pixels of V views are used, at the resolution of the cameras; losses and metrics leave out the others."""

    def __len__(self) -> int: ...

    def __getitem__(self, view: int) -> Tensor:
        """Of one view, bool [H, W]: True where the photo is to be looked at."""
        ...


class Depths(Protocol):
    """What only a maker of scenes knows: how far the surfaces in V views are, at the resolution of the cameras."""

    def __len__(self) -> int: ...

    def __getitem__(self, view: int) -> Tensor:
        """Of one view, float32 [H, W]: camera depth z at the pixel centres in world units, 0 where nothing is."""
        ...


@runtime_checkable
class TransparentPhotos(Photos, Protocol):
    """Photos that may let a background through."""

    def over(self, background: tuple[float, float, float]) -> Photos:
        """The same photos with ``background``, RGB in 0..1, where they are transparent."""
        ...


@dataclass(frozen=True)
class SceneData:
    """Posed photos and sparse points: the input of every optimisation.

    Args:
        name: short name, used for output folders.
        cameras: V undistorted cameras, matching the photos' resolution.
        photos: V photos.
        image_names: V names, unique, in the order of the views.
        points: sparse points, or None when the source has none.
        train: view indices to optimise on.
        test: held-out view indices; may be empty.
        warnings: what the loader found suspicious, one sentence each.
        masks: which pixels of the photos are used; None when all are.
        depths: of the surfaces, exactly; None where nobody knows, as for all photographs.
    """

    name: str
    cameras: Cameras
    photos: Photos
    image_names: Sequence[str]
    points: PointCloud | None
    train: Sequence[int]
    test: Sequence[int]
    warnings: Sequence[str] = ()
    masks: Masks | None = None
    depths: Depths | None = None

    def __post_init__(self) -> None:
        views = len(self.cameras)
        if len(self.photos) != views or len(self.image_names) != views:
            raise ValueError(
                f"scene {self.name!r}: {views} cameras, {len(self.photos)} photos, {len(self.image_names)} names"
            )
        if self.masks is not None and len(self.masks) != views:
            raise ValueError(f"scene {self.name!r}: {views} cameras, {len(self.masks)} masks")
        if self.depths is not None and len(self.depths) != views:
            raise ValueError(f"scene {self.name!r}: {views} cameras, {len(self.depths)} depth maps")

    def over(self, background: tuple[float, float, float]) -> SceneData:
        """The same capture with ``background``, RGB in 0..1, where its photos are transparent."""
        if not isinstance(self.photos, TransparentPhotos):
            return self
        return replace(self, photos=self.photos.over(background))


class SceneSource(Protocol):
    """One capture format: recognises a path by its content and loads it."""

    name: str
    looks_for: str

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` holds this format; never raises on unreadable content."""
        ...

    def load(self, path: Path, *, max_size: int, test_every: int) -> SceneData:
        """Load ``path``.

        Args:
            path: the scene.
            max_size: upper bound of the long side of the photos in pixels; larger photos are area-filtered.
            test_every: every n-th view (in order of names) is held out; 0 holds out none.

        Raises:
            BadSceneError: the content is broken; says which file and what to do.
        """
        ...
