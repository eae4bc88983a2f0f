"""``l2s eval``, ``l2s render`` and ``l2s view``: commands that look at a scene; ``--view`` of ``l2s optimize``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from learn2splat.interrupts import Interrupts

if TYPE_CHECKING:
    from learn2splat.session import Listener

LOOK = (
    click.option("--ply", type=click.Path(path_type=Path), metavar="FILE", help="Gaussians (those of the run)."),
    click.option("--scene", metavar="PATH", help="A scene as of `l2s optimize` (that of the run)."),
    click.option("--max-size", type=int, metavar="PX", help="Long side of the photos (that of the run, or 1600)."),
    click.argument("what", nargs=-1, metavar="[RUN_OR_PLY_OR_SCENE] [GROUP.KEY=VALUE]..."),
)
RENDER = (
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to render."),
    click.option("--renderer", metavar="NAME", help="auto, cpu, gsplat or reference."),
)


def looks(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all commands here have in common."""
    for option in reversed(LOOK):
        command = option(command)
    return command


def renders(command: Callable[..., Any]) -> Callable[..., Any]:
    """What those of them have in common that render."""
    for option in reversed(RENDER):
        command = option(command)
    return looks(command)


@click.command(
    "eval",
    epilog="""\b
Examples:
  l2s eval outputs/garden/adam/20260101-120000
  l2s eval --ply garden.ply --scene ~/captures/garden --max-size 512
  l2s eval outputs/garden/adam/20260101-120000 lpips=~/weights/lpips_vgg.safetensors --json""",
)
@renders
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(what: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Measure a scene on its held-out views: PSNR, SSIM, FLIP, and LPIPS where its weights are."""
    from learn2splat.run_folder import json_line
    from learn2splat.viewing import evaluate, table

    found = evaluate(_opened(what, flags))
    if as_json:
        click.echo(json_line(found))
        return
    for warning in (*found["warnings"], *found["notes"]):
        click.echo(f"l2s: {warning}", err=True)
    click.echo(table(found))


@click.command(
    epilog="""\b
Examples:
  l2s render outputs/garden/adam/20260101-120000 --out garden.mp4
  l2s render outputs/garden/adam/20260101-120000 --path views --frames 300 --out pictures
  l2s render --ply garden.ply --path orbit --out garden.mp4""",
)
@renders
@click.option("--out", type=click.Path(path_type=Path), required=True, help="NAME.mp4, or a folder of PNG files.")
@click.option(
    "--path",
    type=click.Choice(["auto", "orbit", "views"]),
    default="auto",
    show_default=True,
    help="Around what the cameras look at, or through all of them; auto: orbit where they look at one thing.",
)
@click.option("--frames", type=click.IntRange(1), default=120, show_default=True, help="Number of pictures.")
@click.option("--fps", type=click.IntRange(1), default=30, show_default=True, help="Pictures a second.")
def render(what: tuple[str, ...], out: Path, path: str, frames: int, fps: int, **flags: Any) -> None:
    """Film a scene: an orbit, or a path through its cameras."""
    from learn2splat.viewing import render

    cameras = render(_opened(what, flags), out, path=path, frames=frames, fps=fps)
    click.echo(f"{out}: {frames} pictures of {cameras.width} x {cameras.height}")


@click.command(
    epilog="""\b
Examples:
  l2s view outputs/garden/adam/20260101-120000
  l2s view --ply garden.ply --scene ~/captures/garden"""
)
@looks
@click.option("--at", "address", metavar="HOST:PORT", help="Where the browser finds it (127.0.0.1:8080).")
def view(what: tuple[str, ...], address: str | None, **flags: Any) -> None:
    """Show a scene, and the cameras of its capture, in the browser until interrupted."""
    interrupts = Interrupts()
    from learn2splat.live import view as serve
    from learn2splat.viewer import DEFAULT_ADDRESS

    serve(_opened(what, flags), address or DEFAULT_ADDRESS, interrupts, _announce)


def with_viewer(listener: Listener, address: str | None, stop: Callable[[], bool]) -> Listener:
    """``listener``, and the live viewer before it.

    Args:
        listener: hears of the run as well.
        address: ``HOST:PORT`` to serve at, or None for the default.
        stop: whether the run is to end.
    """
    from learn2splat.live import Listeners, LiveView
    from learn2splat.viewer import DEFAULT_ADDRESS

    return Listeners([LiveView(address or DEFAULT_ADDRESS, stop, _announce), listener])


def _announce(text: str) -> None:
    click.echo(f"viewer: {text}", err=True)  # standard output may be JSON


def _opened(what: tuple[str, ...], flags: dict[str, Any]) -> Any:
    from learn2splat.viewing import is_override, open_viewing

    targets = [word for word in what if not is_override(word)]
    if len(targets) > 1:
        raise click.UsageError(f"give one run or scene, not {' and '.join(targets)}")
    overrides = [word for word in what if is_override(word)]
    settings = {name: value for name, value in flags.items() if name != "ply" and value is not None}
    return open_viewing(next(iter(targets), None), ply=flags["ply"], settings=settings, overrides=overrides)
