"""``l2s scene``: make, inspect, convert and export scenes, and find the cameras of photos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from learn2splat.interrupts import Interrupts

LOOK_PX = 512
"""Long side at which photos are looked over."""


@click.group()
def scene() -> None:
    """Make, inspect, convert and export scenes; find the cameras of photos."""


@scene.command(
    epilog="""\b
Examples:
  l2s scene make --seed 3 --out scenes/three
  l2s scene make --seed 4 --views 40 --width 512 --path walk --out scenes/four"""
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which of the unlimited scenes.")
@click.option("--views", type=int, default=20, show_default=True, help="Number of pictures.")
@click.option("--width", type=int, default=256, show_default=True, help="Width of the pictures in pixels.")
@click.option("--height", type=int, help="Height in pixels (three quarters of the width).")
@click.option(
    "--path",
    type=click.Choice(["auto", "ring", "forward", "walk", "nadir"]),
    default="auto",
    show_default=True,
    help="How the camera moves.",
)
def make(out: Path, **values: Any) -> None:
    """Make a procedural scene as a standard COLMAP folder, with depth and alpha beside."""
    from learn2splat.data.colmap_writer import write_colmap
    from learn2splat.data.procedural.source import make_scene
    from learn2splat.data.procedural.spec import ProceduralSpec

    made = make_scene(ProceduralSpec(**values))
    write_colmap(made.data, out, depth=made.depth, alpha=made.alpha, tracks=made.sparse.tracks)
    click.echo(f"{out}: {len(made.data.cameras)} pictures; try: l2s optimize --scene {out}")


@scene.command(
    epilog="""\b
Examples:
  l2s scene info ~/captures/garden
  l2s scene info procedural:seed=3"""
)
@click.argument("path")
@click.option("--max-size", type=click.IntRange(16), default=LOOK_PX, show_default=True, help="Long side to look at.")
def info(path: str, max_size: int) -> None:
    """Show what PATH holds, what is suspicious about it and what to do."""
    from learn2splat.data.sources import load_scene
    from learn2splat.survey import report

    click.echo(report(load_scene(path, max_size=max_size)))


@scene.command(
    epilog="""\b
Examples:
  l2s scene convert ~/captures/garden/transforms.json garden"""
)
@click.argument("path")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--max-size", type=click.IntRange(16), help="Long side of the photos (as they are).")
def convert(path: str, out: Path, max_size: int | None) -> None:
    """Write the scene at PATH as a COLMAP text folder OUT, undistorted."""
    from learn2splat.data.colmap_text_writer import write_colmap_text
    from learn2splat.data.sources import load_scene

    data = load_scene(path, max_size=max_size or sys.maxsize, test_every=0)
    write_colmap_text(data, out)
    for warning in data.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{out}: {len(data.cameras)} photos; try: l2s optimize --scene {out}")


@scene.command(
    epilog="""\b
Examples:
  l2s scene export outputs/garden/adam/20260101-120000/point_cloud.ply garden.spz"""
)
@click.argument("ply", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def export(ply: Path, out: Path) -> None:
    """Write the Gaussians of PLY as OUT.splat, OUT.spz or OUT.ply."""
    from learn2splat.scene.compact import write_scene
    from learn2splat.scene.ply import read_ply

    gaussians = read_ply(ply)
    write_scene(gaussians, out)
    click.echo(f"{out}: {len(gaussians):,} Gaussians, {out.stat().st_size / 1e6:.1f} MB")


@scene.command(
    "from-photos",
    epilog="""\b
Examples:
  l2s scene from-photos ~/Pictures/statue scenes/statue
  l2s scene from-photos frames scenes/walk --matching sequential""",
)
@click.option(
    "--matching",
    metavar="KIND",
    default="auto",
    show_default=True,
    help="exhaustive (all pairs), sequential (a film), or auto: all pairs of up to 100 photos.",
)
@click.option("--max-size", type=int, default=1600, show_default=True, help="Long side at which features are sought.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of COLMAP's random sampling.")
@click.option("--quiet", is_flag=True, help="Print errors and advice only.")
@click.argument("photos", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def from_photos(photos: Path, out: Path, matching: str, max_size: int, seed: int, quiet: bool) -> None:
    """Find the cameras of a folder of PHOTOS and write the scene OUT (COLMAP, on the CPU)."""
    interrupts = Interrupts()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from learn2splat.data.from_photos import Stopped, scene_from_photos
    from learn2splat.data.sources import load_scene
    from learn2splat.survey import findings

    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int | None, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            bars.update(tasks[stage], completed=done or 0, total=None if done is None else total)

        try:
            found = scene_from_photos(
                photos, out, matching=matching, max_size=max_size, seed=seed, progress=show, stop=interrupts
            )
        except Stopped:
            click.echo("l2s: interrupted; nothing was written", err=True)
            sys.exit(128 + (interrupts.received or 0))
    suspicious = map(str, findings(load_scene(out, max_size=LOOK_PX, test_every=0)))
    for paragraph in (*found.advice, *suspicious):
        click.echo(f"l2s: {paragraph}", err=True)
    if not quiet:
        click.echo(
            f"{out}: {found.photos - len(found.missing)} of {found.photos} photos, {found.points:,} points, "
            f"{found.error_px:.2f} px; try: l2s optimize --scene {out}"
        )
