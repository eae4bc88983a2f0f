"""What a capture holds, whether it is sound, and what to do about what is not: ``l2s scene info``."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.data.photos import LazyPhotos
from learn2splat.data.posed import abbreviated
from learn2splat.scene.random_points import random_points

FEW_VIEWS = 3
LEAST_OVERLAP = 0.2
"""Share of what a view sees that another one must see as well to be called overlapping."""
LEAST_VISIBLE = 0.5
"""Share of the sparse points that must lie in two views or more."""
LEAST_BASELINE = 1e-3
"""Spread of the camera centres in units of the distance to what they look at, below which there is no parallax."""
LEAST_EXTENT, LARGEST_EXTENT = 1e-3, 1e4
LARGEST_OFFSET = 1e4
"""Distance of the cameras from the origin in units of their spread, above which float32 positions are too coarse."""
MOST_HIDDEN = 0.5
"""Share of a photo; a mask that hides more may be the wrong way round."""
PROBES = 4096


@dataclass(frozen=True)
class Finding:
    """Something suspicious: what it is, and what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def report(scene: SceneData) -> str:
    """What ``scene`` holds and what is suspicious, as text, one fact a line; every photo is decoded.

    Raises:
        BadSceneError: a photo cannot be decoded.
    """
    found = findings(scene)
    lines = [f"{scene.name}: {len(scene.cameras)} views, {len(scene.train)} to train on, {len(scene.test)} held out"]
    lines += [f"  photos   {_photos(scene)}", f"  lens     {_lens(scene)}", f"  cameras  {_rig(scene.cameras)}"]
    lines += [f"  points   {_points(scene)}", f"  masks    {_masks(scene)}", ""]
    lines += [f"suspicious: {text}" for text in (*scene.warnings, *map(str, found))] or ["nothing suspicious"]
    return "\n".join(lines)


def findings(scene: SceneData) -> list[Finding]:
    """What is suspicious about the cameras, points and photos of ``scene``; every photo is decoded."""
    checks = (_too_few(scene), _duplicates(scene), _degenerate(scene), _scale(scene.cameras), _apart(scene))
    return [finding for check in (*checks, _unseen(scene), _inverted(scene)) for finding in check]


def seen_by(cameras: Cameras, positions_world: Tensor) -> Tensor:
    """[V, P] bool: which of ``positions_world`` [P, 3] lie in front of and inside each of V views."""
    pose, K = cameras.cam_from_world.double(), cameras.K.double()
    local = positions_world.double() @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    pixels = local @ K.mT
    depth = pixels[..., 2:]
    sizes = torch.stack([cameras.widths, cameras.heights], dim=-1)[:, None]
    inside = (pixels[..., :2] >= 0) & (pixels[..., :2] <= sizes * depth)
    return inside.all(dim=-1) & (depth[..., 0] > 0)


def overlaps(scene: SceneData) -> Tensor:
    """[V, V] share of what view i sees that view j sees as well; 0 on the diagonal.

    What is seen are the sparse points, or without them random points at the distance that the cameras look at.
    """
    if scene.points is not None and len(scene.points) >= PROBES // 16:
        positions = scene.points.positions_world
    else:
        positions = random_points(scene.cameras, PROBES, torch.Generator().manual_seed(0)).positions_world
    if len(positions) > PROBES:
        positions = positions[:: len(positions) // PROBES]
    seen = seen_by(scene.cameras, positions).float()
    shares = (seen @ seen.T) / seen.sum(dim=1, keepdim=True).clamp(min=1.0)
    return shares.fill_diagonal_(0.0)


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


def _degenerate(scene: SceneData) -> list[Finding]:
    """No parallax; or axes that meet behind the cameras, as they do in another convention."""
    cameras = scene.cameras
    if len(cameras) < 2:
        return []
    centers, axes = cameras.centers_world.double(), cameras.cam_from_world[:, 2, :3].double()
    spread = float((centers - centers.mean(dim=0)).norm(dim=-1).max())
    if scene.points is not None:
        distance = float(((scene.points.positions_world.double() - centers.mean(dim=0)).norm(dim=-1)).median())
        if spread < LEAST_BASELINE * distance:
            return [Finding("all photos are taken from one place", "move between photos: turning gives no depth")]
    elif spread == 0.0:
        return [Finding("all photos are taken from one place", "move between photos: turning gives no depth")]
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(dim=0)
    if float(torch.linalg.eigvalsh(normal)[0]) < 1e-2 * len(cameras):
        return []
    focus = torch.linalg.solve(normal, (across @ centers[..., None]).sum(dim=0)[:, 0])
    behind = (((focus - centers) * axes).sum(dim=-1) < 0).double().mean()
    if behind <= 0.8:
        return []
    remedy = "fine for a room taken from its middle; else the poses may be in another convention (OpenCV, OpenGL)"
    return [Finding(f"{100 * float(behind):.0f} % of the cameras look away from where their axes meet", remedy)]


def _scale(cameras: Cameras) -> list[Finding]:
    centers = cameras.centers_world.double()
    spread = float((centers - centers.mean(dim=0)).norm(dim=-1).max())
    offset = float(centers.mean(dim=0).norm())
    found = []
    if 0 < spread < LEAST_EXTENT or spread > LARGEST_EXTENT:
        found.append(
            Finding(f"the cameras spread over {spread:.3g} world units", "rescale the capture to between 0.1 and 100")
        )
    if spread > 0 and offset > LARGEST_OFFSET * spread:
        found.append(Finding(f"the cameras are {offset:.3g} world units from the origin", "move the capture to it"))
    return found


def _apart(scene: SceneData) -> list[Finding]:
    """Views that overlap with no other, and captures that fall into parts."""
    views = len(scene.cameras)
    if views < 2:
        return []
    linked = overlaps(scene) >= LEAST_OVERLAP
    linked = linked | linked.T
    parts = _parts(linked)
    alone = [scene.image_names[part[0]] for part in parts if len(part) == 1]
    found = []
    if alone:
        remedy = "remove them, check their poses, or take photos in between"
        found.append(Finding(f"{len(alone)} views overlap with no other ({abbreviated(alone)})", remedy))
    groups = [part for part in parts if len(part) > 1]
    if len(groups) > 1:
        sizes = ", ".join(str(len(group)) for group in groups)
        found.append(
            Finding(f"the views fall into {len(groups)} parts of {sizes} that look apart", "take photos in between")
        )
    return found


def _parts(linked: Tensor) -> list[list[int]]:
    """Connected components of a symmetric [V, V] adjacency."""
    remaining, parts = set(range(len(linked))), []
    while remaining:
        part, frontier = set[int](), {min(remaining)}
        while frontier:
            part |= frontier
            frontier = set(linked[sorted(frontier)].any(dim=0).nonzero()[:, 0].tolist()) - part
        remaining -= part
        parts.append(sorted(part))
    return parts


def _unseen(scene: SceneData) -> list[Finding]:
    if scene.points is None:
        return []
    count = seen_by(scene.cameras, scene.points.positions_world).sum(dim=0)
    visible = float((count >= min(2, len(scene.cameras))).double().mean())
    if visible >= LEAST_VISIBLE:
        return []
    remedy = "points and cameras may be of different worlds (scale, convention); else use --init random"
    return [Finding(f"only {100 * visible:.0f} % of the points lie in two views or more", remedy)]


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


def _rig(cameras: Cameras) -> str:
    centers = cameras.centers_world
    return f"centres {_box(centers)}, extent {cameras.extent_world:.4g} world units"


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
