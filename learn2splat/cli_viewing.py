"""``l2s eval`` and ``l2s render``: commands that look at a finished scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

LOOK = (
    click.option("--ply", type=click.Path(path_type=Path), metavar="FILE", help="Gaussians (those of the run)."),
    click.option("--scene", metavar="PATH", help="A scene as of `l2s optimize` (that of the run)."),
    click.option("--max-size", type=int, metavar="PX", help="Long side of the photos (that of the run, or 1600)."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to render."),
    click.option("--renderer", metavar="NAME", help="auto, cpu, gsplat or reference."),
    click.argument("what", nargs=-1, metavar="[RUN_OR_SCENE] [GROUP.KEY=VALUE]..."),
)


def looks(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the commands here have in common."""
    for option in reversed(LOOK):
        command = option(command)
    return command


@click.command(
    "eval",
    epilog="""\b
Examples:
  l2s eval outputs/garden/adam/20260101-120000
  l2s eval --ply garden.ply --scene ~/captures/garden --max-size 512
  l2s eval outputs/garden/adam/20260101-120000 lpips=~/weights/lpips_vgg.safetensors --json""",
)
@looks
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(what: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Measure a scene on its held-out views: PSNR, SSIM, FLIP, and LPIPS where its weights are."""
    from learn2splat.run_folder import json_line
    from learn2splat.viewing import evaluate, table

    found = evaluate(_opened(what, flags))
    if as_json:
        click.echo(json_line(found))
        return
    for warning in found["warnings"]:
        click.echo(f"l2s: {warning}", err=True)
    click.echo(table(found))


@click.command(
    epilog="""\b
Examples:
  l2s render outputs/garden/adam/20260101-120000 --out garden.mp4
  l2s render outputs/garden/adam/20260101-120000 --path views --frames 300 --out pictures
  l2s render --ply garden.ply --path orbit --out garden.mp4""",
)
@looks
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


def _opened(what: tuple[str, ...], flags: dict[str, Any]) -> Any:
    from learn2splat.viewing import is_override, open_viewing

    targets = [word for word in what if not is_override(word)]
    if len(targets) > 1:
        raise click.UsageError(f"give one run or scene, not {' and '.join(targets)}")
    overrides = [word for word in what if is_override(word)]
    settings = {name: value for name, value in flags.items() if name != "ply" and value is not None}
    return open_viewing(next(iter(targets), None), ply=flags["ply"], settings=settings, overrides=overrides)
