"""``l2s view``, and ``--view`` of ``l2s optimize``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from learn2splat.interrupts import Interrupts

if TYPE_CHECKING:
    from learn2splat.session import Listener


@click.command(
    epilog="""\b
Examples:
  l2s view outputs/garden/adam/20260101-120000
  l2s view point_cloud.ply --scene ~/captures/garden"""
)
@click.option("--scene", metavar="PATH", help="A capture whose cameras are shown too (that of the run).")
@click.option("--at", "address", metavar="HOST:PORT", help="Where the browser finds it (127.0.0.1:8080).")
@click.argument("path", metavar="RUN_OR_PLY", type=click.Path(path_type=Path))
def view(path: Path, scene: str | None, address: str | None) -> None:
    """Show a run or a PLY in the browser until interrupted."""
    interrupts = Interrupts()
    from learn2splat.live import view as serve
    from learn2splat.viewer import DEFAULT_ADDRESS

    serve(path, scene, address or DEFAULT_ADDRESS, interrupts, _announce)


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
