"""``l2s scene from-photos``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from learn2splat.interrupts import Interrupts


@click.command(
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
    if found.advice:
        click.echo(f"l2s: {found.advice}", err=True)
    if not quiet:
        click.echo(
            f"{out}: {found.photos - len(found.missing)} of {found.photos} photos, {found.points:,} points, "
            f"{found.error_px:.2f} px; try: l2s optimize --scene {out}"
        )
