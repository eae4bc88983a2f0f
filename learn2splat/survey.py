"""What a capture holds, whether it is sound, and what to do about what is not: ``l2s scene info``."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import torch
from torch import Tensor

from learn2splat.data.base import SceneData
from learn2splat.data.photos import LazyPhotos
from learn2splat.data.posed import abbreviated
from learn2splat.data.sharpness import sharpness
from learn2splat.scene.rig import LEAST_OVERLAP, Finding, geometric_findings, meet, overlaps

FEW_VIEWS = 3
MOST_HIDDEN = 0.5
"""Share of a photo; a mask that hides more may be the wrong way round."""
SHARP_PX = 512
"""Long side at which photos are compared for their sharpness, if none is smaller."""
LEAST_SHARPNESS = 0.4
"""Relative to the median of overlapping photos; sound captures stay above 0.6, a blur of 0.7 pixels falls below."""


def report(scene: SceneData) -> str:
    """What ``scene`` holds and what is suspicious, as text, one fact a line; every photo is decoded.

    Raises:
        BadSceneError: a photo cannot be decoded.
    """
    found = findings(scene)
    lines = [f"{scene.name}: {len(scene.cameras)} views, {len(scene.train)} to train on, {len(scene.test)} held out"]
    lines += [f"  photos   {_photos(scene)}", f"  lens     {_lens(scene)}", f"  cameras  {_rig(scene)}"]
    lines += [f"  points   {_points(scene)}", f"  masks    {_masks(scene)}", ""]
    lines += [f"suspicious: {text}" for text in (*scene.warnings, *map(str, found))] or ["nothing suspicious"]
    return "\n".join(lines)


def findings(scene: SceneData) -> list[Finding]:
    """What is suspicious about the cameras, points and photos of ``scene``; every photo is decoded."""
    checks = (_too_few(scene), _duplicates(scene), geometric_findings(scene), _blurred(scene), _inverted(scene))
    return [finding for check in checks for finding in check]


def _too_few(scene: SceneData) -> list[Finding]:
    if len(scene.cameras) >= FEW_VIEWS:
        return []
    return [Finding(f"there are only {len(scene.cameras)} views", "take more photos, each thing in three or more")]


def _duplicates(scene: SceneData) -> list[Finding]:
    """Equal photos, and different photos from one pose."""
    names = scene.image_names
    photos: dict[bytes, list[str]] = defaultdict(list)
    for view in range(len(scene.photos)):
        photos[hashlib.sha256(scene.photos[view].numpy().tobytes()).digest()].append(names[view])
    same = [" = ".join(group) for group in photos.values() if len(group) > 1]
    found = []
    if same:
        found.append(Finding(f"photos are equal ({abbreviated(same)})", "remove all but one of each"))
    poses = [tuple(pose.flatten().tolist()) for pose in scene.cameras.cam_from_world]
    twice = [pose for pose, count in Counter(poses).items() if count > 1]
    if twice and not same:
        groups = [" = ".join(names[v] for v, pose in enumerate(poses) if pose == other) for other in twice]
        found.append(Finding(f"views have one pose ({abbreviated(groups)})", "check how the poses were written"))
    return found


def _blurred(scene: SceneData) -> list[Finding]:
    """Photos that are much less sharp than those that overlap with them, or than all where none does."""
    photos = scene.photos
    side = min(int(torch.maximum(scene.cameras.widths, scene.cameras.heights).min()), SHARP_PX)
    sharp = torch.tensor([sharpness(photos[view], side) for view in range(len(photos))])
    linked = overlaps(scene) >= LEAST_OVERLAP
    soft = [
        name
        for name, own, near in zip(scene.image_names, sharp, linked, strict=True)
        if own < LEAST_SHARPNESS * sharp[near if near.any() else slice(None)].median()
    ]
    if not soft:
        return []
    what = f"{len(soft)} photos are much less sharp than others of the same things ({abbreviated(soft)})"
    return [Finding(what, "look at them; leave out those that are blurred, or take them again")]


def _hidden(scene: SceneData) -> list[float]:
    """Share that masks hide of each view."""
    return [] if scene.masks is None else [1 - float(scene.masks[v].double().mean()) for v in range(len(scene.masks))]


def _inverted(scene: SceneData) -> list[Finding]:
    most = [name for name, share in zip(scene.image_names, _hidden(scene), strict=False) if share > MOST_HIDDEN]
    if not most:
        return []
    what = f"masks hide more than half of {len(most)} photos ({abbreviated(most)})"
    return [Finding(what, "check that black is what is to be ignored")]


def _masks(scene: SceneData) -> str:
    shares = [100 * share for share in _hidden(scene) if share > 0]
    if not shares:
        return "none"
    return f"{len(shares)} of {len(scene.photos)} photos, hiding {min(shares):.0f} to {max(shares):.0f} %"


def _photos(scene: SceneData) -> str:
    sizes = Counter(zip(scene.cameras.widths.tolist(), scene.cameras.heights.tolist(), strict=True))
    return ", ".join(f"{count} of {width}x{height}" for (width, height), count in sizes.most_common())


def _lens(scene: SceneData) -> str:
    K = scene.cameras.K.double()
    angles = torch.rad2deg(2 * torch.atan(0.5 * scene.cameras.widths / K[:, 0, 0]))
    text = f"{_range(angles)} degrees wide, focal length {_range(K[:, 0, 0])} pixels"
    files = scene.photos.files if isinstance(scene.photos, LazyPhotos) else ()
    models = Counter(file.lens.model for file in files if file.lens)
    undistorted = ", ".join(f"{count} {model}" for model, count in models.most_common())
    return f"{text}, {f'undistorted on load: {undistorted}' if undistorted else 'no distortion'}"


def _rig(scene: SceneData) -> str:
    cameras = scene.cameras
    text = f"centres {_box(cameras.centers_world)}, extent {cameras.extent_world:.4g} world units"
    if scene.points is not None or meet(cameras) is not None:
        return text
    return f"{text}; nearly parallel and without points: which way they look cannot be told"


def _points(scene: SceneData) -> str:
    if scene.points is None:
        return "none: a run starts from random points"
    middle = torch.quantile(scene.points.positions_world[:1_000_000], torch.tensor([0.01, 0.99]), dim=0)
    return f"{len(scene.points):,}, 98 % of each coordinate in {_box(middle)}"


def _box(positions: Tensor) -> str:
    low, high = positions.amin(dim=0).tolist(), positions.amax(dim=0).tolist()
    return " x ".join(f"[{a:.3g}, {b:.3g}]" for a, b in zip(low, high, strict=True))


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
