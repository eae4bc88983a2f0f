"""Cameras and points of a capture: what they see in common, and what is suspicious about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.data.posed import abbreviated
from learn2splat.scene.random_points import random_points

LEAST_OVERLAP = 0.2
"""Share of what a view sees that another one must see as well to be called overlapping."""
LEAST_VISIBLE = 0.5
"""Share of the sparse points that must lie in two views or more."""
LEAST_BASELINE = 1e-3
"""Spread of the camera centres in units of the distance to what they look at, below which there is no parallax."""
LEAST_EXTENT, LARGEST_EXTENT = 1e-3, 1e4
LARGEST_OFFSET = 1e4
"""Distance of the cameras from the origin in units of their spread, above which float32 positions are too coarse."""
MOST_BEHIND = 0.8
"""Share of the points, or of the cameras, above which they look the wrong way."""
LEAST_ANGLE = 1e-2
"""Smallest mean squared sine of the angles between optical axes at which they meet somewhere."""
PROBES = 4096
CONVENTION = "the poses may be in another convention: OpenCV looks along +z, OpenGL along -z (a roll cannot be told)"


@dataclass(frozen=True)
class Finding:
    """Something suspicious: what it is, and what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def geometric_findings(scene: SceneData) -> list[Finding]:
    """What is suspicious about the cameras and points of ``scene``; no photo is looked at.

    A camera that is turned about its optical axis, as by an exchange of x and y, sees as much as before: that cannot
    be told from geometry. Nor can, without points, which way nearly parallel cameras look.
    """
    checks = (_backwards(scene), _turning(scene), _scale(scene.cameras), _apart(scene), _unseen(scene))
    return [finding for check in checks for finding in check]


def seen_by(cameras: Cameras, positions_world: Tensor) -> Tensor:
    """[V, P] bool: which of ``positions_world`` [P, 3] lie in front of and inside each of V views."""
    positions = positions_world.double()
    seen = torch.empty(len(cameras), len(positions), dtype=torch.bool)
    for view, (pose, K) in enumerate(zip(cameras.cam_from_world.double(), cameras.K.double(), strict=True)):
        pixels = (positions @ pose[:3, :3].T + pose[:3, 3]) @ K.T
        size, depth = torch.stack([cameras.widths[view], cameras.heights[view]]), pixels[:, 2:]
        inside = (pixels[:, :2] >= 0) & (pixels[:, :2] <= size * depth)
        seen[view] = inside.all(dim=-1) & (depth[:, 0] > 0)
    return seen


def overlaps(scene: SceneData) -> Tensor:
    """[V, V] share of what view i sees that view j sees as well; 0 on the diagonal.

    What is seen are the sparse points, or without them random points at the distance that the cameras look at.
    """
    if scene.points is not None and len(scene.points) >= PROBES // 16:
        positions = _probes(scene)
    else:
        positions = random_points(scene.cameras, PROBES, torch.Generator().manual_seed(0)).positions_world
    seen = seen_by(scene.cameras, positions).float()
    shares = (seen @ seen.T) / seen.sum(dim=1, keepdim=True).clamp(min=1.0)
    return shares.fill_diagonal_(0.0)


def _probes(scene: SceneData) -> Tensor:
    """Some of the points, [P, 3]."""
    assert scene.points is not None
    return scene.points.positions_world[:: max(1, len(scene.points) // PROBES)]


def meet(cameras: Cameras) -> Tensor | None:
    """The point [3] that is closest to all optical axes; None when they are nearly parallel."""
    centers, axes = cameras.centers_world.double(), cameras.cam_from_world[:, 2, :3].double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(dim=0)
    if float(torch.linalg.eigvalsh(normal)[0]) < LEAST_ANGLE * len(cameras):
        return None
    return torch.linalg.solve(normal, (across @ centers[..., None]).sum(dim=0)[:, 0])


def _turning(scene: SceneData) -> list[Finding]:
    """No parallax."""
    if len(scene.cameras) < 2:
        return []
    centers = scene.cameras.centers_world.double()
    middle = centers.mean(dim=0)
    spread = float((centers - middle).norm(dim=-1).max())
    distance = 0.0
    if scene.points is not None:
        distance = float((scene.points.positions_world.double() - middle).norm(dim=-1).median())
    if spread > LEAST_BASELINE * distance:
        return []
    return [Finding("all photos are taken from one place", "move between photos: turning gives no depth")]


def _backwards(scene: SceneData) -> list[Finding]:
    """Cameras that look away from the points, or without points from where their axes meet."""
    cameras = scene.cameras
    if scene.points is not None:
        pose = cameras.cam_from_world.double()
        depth = _probes(scene).double() @ pose[:, 2, :3].T + pose[:, 2, 3]
        behind = float((depth < 0).double().mean())
        what, remedy = f"{100 * behind:.0f} % of the points lie behind the cameras", CONVENTION
    elif len(cameras) > 1 and (focus := meet(cameras)) is not None:
        axes = cameras.cam_from_world[:, 2, :3].double()
        behind = float((((focus - cameras.centers_world) * axes).sum(dim=-1) < 0).double().mean())
        what = f"{100 * behind:.0f} % of the cameras look away from where their axes meet"
        remedy = f"without points a room taken from its middle cannot be told from this; else {CONVENTION}"
    else:
        return []
    return [Finding(what, remedy)] if behind > MOST_BEHIND else []


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
    count = seen_by(scene.cameras, _probes(scene)).sum(dim=0)
    visible = float((count >= min(2, len(scene.cameras))).double().mean())
    if visible >= LEAST_VISIBLE:
        return []
    remedy = "points and cameras may be of different worlds (scale, convention); else use --init random"
    return [Finding(f"only {100 * visible:.0f} % of the points lie in two views or more", remedy)]
