"""Looking at a finished scene: its metrics on a capture, and films of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from learn2splat.camera_paths import facing, interpolated, orbit, sized, tour
from learn2splat.cameras import Cameras
from learn2splat.capture import Capture, device_and_renderer, film
from learn2splat.config import BadConfigError
from learn2splat.eval.metrics import means
from learn2splat.files import write_whole
from learn2splat.run_config import compose_run, overridden
from learn2splat.run_folder import RunFolder, write_png
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.ply import read_ply
from learn2splat.video import mp4

PATHS: dict[str, Callable[[Cameras, int], Cameras]] = {"auto": tour, "orbit": orbit, "views": interpolated}
"""How a film may move."""
NO_VIEWS_PX = (960, 720)
"""Size of the pictures of a scene that comes without cameras."""


@dataclass(frozen=True)
class Viewing:
    """A scene of Gaussians, and how to look at it.

    Args:
        scene: on the CPU.
        ply: where it was read.
        config: as of `l2s optimize`.
        run: whose configuration that is, if it is a run's.
    """

    scene: GaussianScene
    ply: Path
    config: DictConfig
    run: RunFolder | None = None

    @property
    def has_capture(self) -> bool:
        """Whether there are photos and cameras as well."""
        return not OmegaConf.is_missing(self.config, "scene")


def open_viewing(
    target: str | None = None,
    *,
    ply: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> Viewing:
    """What `l2s eval`, `l2s render` and `l2s view` are asked to look at.

    Args:
        target: the folder of a run, a PLY of Gaussians, or a scene that `load_scene` understands.
        ply: Gaussians instead of the run's.
        settings: values of ``configs/optimize.yaml`` instead of the run's, for example another scene.
        overrides: more of them, in Hydra's syntax.

    Raises:
        UserError: bad input; the message says what to do.
    """
    settings = dict(settings or {})
    if target is not None and ply is None and Path(target).suffix.lower() == ".ply":
        target, ply = None, target
    run = None if target is None else RunFolder(Path(target))
    if run is not None and not (run.path / "config.yaml").is_file():
        run = None
        settings.setdefault("scene", target)
    if run is None and ply is None:
        raise BadConfigError(f"{target or 'no run'}: give the folder of a run, or a scene and --ply FILE")
    if run is not None and ply is None and not run.ply.is_file():
        raise BadConfigError(f"{run.path} holds no {run.ply.name}: wait until the run ends, or give --ply FILE")
    composed = compose_run(settings, overrides)
    config = composed.config if run is None else overridden(run.read_config(), composed)
    file = Path(ply) if ply is not None else run.ply if run is not None else Path()
    return Viewing(read_ply(file), file, config, run)


def evaluate(viewing: Viewing) -> dict[str, Any]:
    """Every metric of every held-out view (of those optimised on, when none are held out), and the means.

    Raises:
        UserError: there is no capture, or it is bad.
        BackendMissingError: the renderer or the device is not there.
    """
    if not viewing.has_capture:
        raise BadConfigError("a PLY alone has no photos to compare with: give the scene, --scene PATH")
    capture = Capture(viewing.config)
    scores = {view.view: view.scores for view in capture.evaluate(viewing.scene.to(capture.device))}
    return {
        "scene": str(viewing.config.scene),
        "ply": str(viewing.ply),
        "split": capture.split,
        "gaussians": len(viewing.scene),
        "warnings": [*capture.data.warnings],
        "notes": capture.notes,
        "views": [{"name": capture.name(view), **found} for view, found in scores.items()],
        "mean": means([*scores.values()]),
    }


def table(found: dict[str, Any]) -> str:
    """What `evaluate` found as text: one line per view, and the means."""
    lines = [*found["views"], {"name": f"mean of {len(found['views'])} {found['split']} views", **found["mean"]}]
    width = max(len(line["name"]) for line in lines)
    rows = [f"{'view':<{width}}  {'PSNR dB':>8}  {'SSIM':>7}  {'FLIP':>7}  {'LPIPS':>7}"]
    for line in lines:
        cells = [f"{_cell(line['psnr'], 3):>8}", *(f"{_cell(line[name], 4):>7}" for name in ("ssim", "flip", "lpips"))]
        rows.append("  ".join([f"{line['name']:<{width}}", *cells]))
    return "\n".join(rows)


def render(
    viewing: Viewing, out: Path, *, path: str = "auto", frames: int = 120, fps: int = 30, longest: int = 1600
) -> Cameras:
    """Write a film of a scene; returns the cameras of its pictures.

    Args:
        viewing: what to look at; without a capture the camera goes around the Gaussians.
        out: an ``.mp4`` file, or a folder of PNG files to make.
        path: "orbit", around what the cameras look at; "views", through all cameras in their order; or "auto".
        frames: number of pictures.
        fps: pictures a second.
        longest: upper bound of the long side in pixels; sides become even.

    Raises:
        UserError: bad input.
        FileExistsError: ``out`` is there already.
        BackendMissingError: the renderer or the device is not there.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out")
    device, renderer = device_and_renderer(viewing.config)
    cameras = Capture(viewing.config).data.cameras if viewing.has_capture else facing(viewing.scene.means, *NO_VIEWS_PX)
    along = sized(PATHS[path](cameras, frames), longest)
    background = torch.tensor(list(viewing.config.background), dtype=torch.float32, device=device)
    pictures = film(viewing.scene.to(device), along.to(device), renderer, background)
    if out.suffix.lower() == ".mp4":
        write_whole(out, lambda temporary: temporary.write_bytes(mp4(pictures, fps)))
    else:
        write_whole(out, lambda temporary: _write_pngs(temporary, pictures))
    return along


def is_override(argument: str) -> bool:
    """Whether a word of a command line is ``GROUP.KEY=VALUE`` rather than a run or a scene."""
    return re.match(r"[+~]*[\w.]+=", argument) is not None


def _write_pngs(folder: Path, pictures: Iterator[Tensor]) -> None:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        write_png(folder / f"{number:05d}.png", picture)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
