"""From a capture to what an initialiser is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from learn2splat.data.base import SceneData
from learn2splat.data.resize import shrink
from learn2splat.data.views import farthest_point_order, middle_view, view_features
from learn2splat.errors import UserError
from learn2splat.predict.base import Initialiser, Prediction

MOST_VIEWS = 16
"""Views that an initialiser is shown at most."""
MOST_PIXELS = 2**20
"""Pixels that it is shown at most, in all views."""


def shown(data: SceneData, views: Sequence[int], long_side: int | None = None) -> tuple[SceneData, list[int]]:
    """The capture as an initialiser is shown it, with smaller photos if need be, and which of ``views``: spread well.

    Args:
        data: the capture.
        views: to choose from.
        long_side: most pixels of a side that the initialiser is good at, by default any number.

    Raises:
        UserError: the photos differ in size.
    """
    chosen = list(views)
    if len(chosen) > MOST_VIEWS:
        cameras = data.cameras.take(chosen)
        order = farthest_point_order(view_features(cameras), MOST_VIEWS, int(middle_view(cameras)))
        chosen = sorted(chosen[row] for row in order)
    cameras = data.cameras.take(chosen)
    sizes = set(zip(cameras.widths.tolist(), cameras.heights.tolist(), strict=True))
    if len(sizes) != 1:
        raise UserError(f"{data.name}: photos of {len(sizes)} sizes; an initialiser takes photos of one size")
    ((width, height),) = sizes
    longest = max(width, height)
    most = int(longest * math.sqrt(MOST_PIXELS / (len(chosen) * width * height)))
    most = min(most, long_side or most)
    return shrink(data, most) if most < longest else data, chosen


@torch.no_grad()
def predicted(data: SceneData, views: Sequence[int], initialiser: Initialiser) -> Prediction:
    """What ``initialiser`` says about the scene of ``data`` when it is `shown` it.

    Args:
        data: the capture.
        views: to choose from.
        initialiser: whom to ask.

    Raises:
        UserError: the photos differ in size, or their number does not suit the initialiser.
    """
    data, chosen = shown(data, views, initialiser.long_side)
    images = torch.stack([data.photos[view] for view in chosen]).float() / 255.0
    try:
        return initialiser(images, data.cameras.take(chosen))
    except ValueError as error:
        raise UserError(f"{data.name}: {error}") from error
