"""The web page of the live viewer: splats, cameras with their photos, text and a curve. It knows nothing of runs.

The page is served by viser (Yi et al. 2025) from this machine alone and loads nothing from elsewhere. Splats are shown
in the colour of their constant harmonic, and cameras without the offset of their principal point.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.data.photos import area_filter
from learn2splat.errors import UserError
from learn2splat.render.base import BackendMissingError
from learn2splat.scene.gaussians import GaussianScene, opacities, scales, sh0_to_rgb
from learn2splat.scene.rotation import rotation_matrices

Array = NDArray[Any]

DEFAULT_ADDRESS = "127.0.0.1:8080"
SHOWN_RADIUS = 5.0
"""Distance from the middle to the farthest camera on the page: covariances travel as float16."""
MAX_STD = 200.0
"""Largest standard deviation on the page; its square is below what float16 holds."""
PHOTO_SIZE = 192
"""Long side of the photos on the page in pixels."""
MAX_FRUSTA = 150
"""Cameras on the page; of more, evenly chosen ones are shown."""
TRAIN_COLOR, TEST_COLOR = (66, 120, 190), (214, 110, 40)


@dataclass(frozen=True)
class Placement:
    """Where the page shows world points: ``scale * (point_world - middle_world)``."""

    middle_world: Array
    scale: float

    @classmethod
    def around(cls, points_world: Tensor) -> Placement:
        """The median of ``points_world`` [N, 3] in the middle, nine of ten within `SHOWN_RADIUS`."""
        points = points_world.detach().cpu().double()
        middle = points.median(dim=0).values
        radius = float((points - middle).norm(dim=-1).quantile(0.9)) if len(points) < 1 << 24 else 1.0
        return cls(middle.numpy(), SHOWN_RADIUS / radius if radius > 0 else 1.0)

    def shown(self, points_world: Array) -> Array:
        """Points [..., 3] on the page."""
        return self.scale * (points_world - self.middle_world)


def splats(scene: GaussianScene, place: Placement) -> dict[str, Array]:
    """What viser draws of a scene, float32.

    Returns:
        centers [N, 3], covariances [N, 3, 3], rgbs [N, 3] and opacities [N, 1] in 0..1.
    """
    scene = scene.detach().to("cpu", torch.float32)
    shown_scales = (place.scale * scales(scene)).clamp(max=MAX_STD)
    axes = rotation_matrices(scene.quats) * shown_scales[:, None]
    middle = torch.from_numpy(place.middle_world).float()
    return {
        "centers": (place.scale * (scene.means - middle)).numpy(),
        "covariances": (axes @ axes.mT).numpy(),
        "rgbs": sh0_to_rgb(scene.sh[:, 0]).clamp(0, 1).numpy(),
        "opacities": opacities(scene)[:, None].numpy(),
    }


def parse_address(text: str) -> tuple[str, int]:
    """("127.0.0.1", 8080) from ``HOST:PORT`` or ``PORT``.

    Raises:
        UserError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UserError(f"the viewer's address {text!r} must be HOST:PORT or PORT, e.g. {DEFAULT_ADDRESS}")
    return host or "127.0.0.1", int(port)


class Page:
    """A page in the browser.

    Args:
        address: ``HOST:PORT`` to serve at; the next free port when it is taken.
        place: how world units appear.

    Raises:
        BackendMissingError: viser is not installed.
        UserError: the address is none, or cannot be served at.
    """

    def __init__(self, address: str, place: Placement) -> None:
        host, port = parse_address(address)
        self.place = place
        self.server = _server(host, port)
        self.url = f"http://{self.server.get_host()}:{self.server.get_port()}"
        self.server.gui.configure_theme(show_share_button=False, show_logo=False, control_width="medium")
        self.text = self.server.gui.add_markdown("")
        self._curve: Any = None
        self._splats: Any = None
        self._frusta: list[Any] = []

    @property
    def is_watched(self) -> bool:
        """Whether a browser shows the page."""
        return bool(self.server.get_clients())

    def show(self, scene: GaussianScene) -> None:
        """Show ``scene`` instead of the one before."""
        if self._splats is None:
            self._splats = self.server.scene.add_gaussian_splats("/scene", **splats(scene, self.place))
        else:
            self._splats.set_gaussians(**splats(scene, self.place))

    def show_views(self, data: SceneData, train: Sequence[int], test: Sequence[int], depth_world: float) -> None:
        """Show cameras with their photos, and look at the scene as the first of ``train`` does, from farther back.

        Args:
            data: the photos.
            train: views shown in blue.
            test: views shown in orange.
            depth_world: distance of what the cameras look at.
        """
        views = [*train, *test]
        views = [views[i] for i in np.unique(np.linspace(0, len(views) - 1, min(len(views), MAX_FRUSTA)).astype(int))]
        self._frusta = [self._frustum(data, view, TEST_COLOR if view in test else TRAIN_COLOR) for view in views]
        toggle = self.server.gui.add_checkbox("cameras", True)

        @toggle.on_update
        def _(event: object) -> None:
            for frustum in self._frusta:
                frustum.visible = toggle.value

        world_from_cam = torch.linalg.inv(data.cameras.cam_from_world.cpu().double()).numpy()
        up = -world_from_cam[list(views), :3, 1].mean(axis=0)
        self.server.scene.set_up_direction(up / np.linalg.norm(up))
        first = world_from_cam[train[0]]
        eye, forward = first[:3, 3], first[:3, 2]
        camera = self.server.initial_camera
        camera.position = tuple(self.place.shown(eye - 0.5 * depth_world * forward + 0.2 * depth_world * up))
        camera.look_at = tuple(self.place.shown(eye + depth_world * forward))

    def _frustum(self, data: SceneData, view: int, color: tuple[int, int, int]) -> Any:
        """One camera; a click on it looks through it."""
        from viser.transforms import SO3

        camera = data.cameras.take([view])
        world_from_cam = torch.linalg.inv(camera.cam_from_world[0].cpu().double()).numpy()
        wxyz, position = SO3.from_matrix(world_from_cam[:3, :3]).wxyz, self.place.shown(world_from_cam[:3, 3])
        fov = 2 * math.atan(camera.height / (2 * float(camera.K[0, 1, 1])))
        frustum = self.server.scene.add_camera_frustum(
            f"/cameras/{view:05d}",
            fov,
            camera.width / camera.height,
            scale=0.06 * SHOWN_RADIUS,
            thickness=0.002 * SHOWN_RADIUS,
            color=color,
            image=_small(data.photos[view].numpy()),
            wxyz=wxyz,
            position=position,
        )

        @frustum.on_click
        def _(event: Any) -> None:
            with event.client.atomic():
                event.client.camera.wxyz, event.client.camera.position = wxyz, position
                event.client.camera.fov = fov

        return frustum

    def show_curve(self, rows: Sequence[tuple[float, float]]) -> None:
        """Show the PSNR in dB by step as a curve; ``rows`` are (step, dB)."""
        data = tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
        if len(rows) < 2:
            return
        if self._curve is None:
            series = ({"label": "step"}, {"label": "PSNR (dB)", "stroke": "#4278be", "width": 2})
            self._curve = self.server.gui.add_uplot(
                data, series, title="held-out PSNR (dB)", scales={"x": {"time": False}}, aspect=1.6
            )
        else:
            self._curve.data = data

    def close(self) -> None:
        """Stop serving."""
        with _silenced():
            self.server.stop()


def viewing_depth(cameras: Cameras, scene: GaussianScene) -> float:
    """Median depth in world units of the Gaussians in front of the first camera."""
    pose = cameras.cam_from_world[0].cpu().float()
    depth = scene.means.detach().cpu().float() @ pose[2, :3] + pose[2, 3]
    depth = depth[depth > 0]
    return float(depth.median()) if len(depth) else cameras.extent_world or 1.0


def _server(host: str, port: int) -> Any:
    try:
        import viser
    except ImportError as error:
        raise BackendMissingError(f"the viewer needs viser ({error}): pip install 'learn2splat[viewer]'") from error
    try:
        socket.create_server((host, 0)).close()  # viser would try all ports of a host that is none
    except OSError as error:
        raise UserError(f"the viewer cannot serve at {host} ({error}); give an address of this machine") from error
    with _silenced():
        return viser.ViserServer(host, port, verbose=False)


def _silenced() -> contextlib.AbstractContextManager[object]:
    """viser tells standard output where it serves and that it stopped; there may be JSON."""
    return contextlib.redirect_stdout(io.StringIO())


def _small(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    scale = min(1.0, PHOTO_SIZE / max(width, height))
    return area_filter(photo, max(1, round(scale * width)), max(1, round(scale * height)))
