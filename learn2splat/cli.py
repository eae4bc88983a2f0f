"""``l2s``: compose a configuration, call the library, print. No logic lives here."""

from __future__ import annotations

import errno
import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from learn2splat import __version__
from learn2splat.commands.look import evaluate, render, view, with_viewer
from learn2splat.commands.scenes import scene
from learn2splat.errors import UserError
from learn2splat.interrupts import Interrupts

EXIT_BUG, EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_MEMORY, EXIT_CANNOT_WRITE = 1, 2, 3, 4, 5
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LOCKED = {errno.EROFS, errno.EACCES, errno.EPERM}
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="l2s")
def cli() -> None:
    """Learned and conventional optimizers for 3D Gaussian Splatting.

    Exit codes: 0 done, 1 a bug, 2 bad input, 3 diverged, 4 out of memory, 5 cannot write or a backend is missing,
    130 and 143 interrupted.
    """


@cli.command(
    epilog="""\b
Examples:
  l2s optimize --scene procedural:seed=1 --steps 500
  l2s optimize --scene ~/captures/garden --steps 2000 --max-size 512 --optimizer adam-tuned
  l2s optimize --scene ~/captures/garden --views sparse:3 --steps 500 loss.ssim_weight=0.1
  l2s optimize --out outputs/garden/adam/20260101-120000 --resume"""
)
@click.option(
    "--scene",
    metavar="PATH",
    help="A COLMAP, nerfstudio, instant-ngp, Blender, Polycam or Record3D capture, or procedural:seed=0,views=20,...",
)
@click.option("--steps", type=int, help="Updates in all (2000; no bound with --time-budget alone).")
@click.option(
    "--optimizer",
    metavar="NAME",
    help="l2s, adam-tuned, sgd, ... (a file of configs/optimizer), or the folder of a trained one (l2s).",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to optimise (auto).")
@click.option("--renderer", metavar="NAME", help="auto, cpu, gsplat or reference (auto).")
@click.option(
    "--init",
    metavar="KIND",
    help="auto, sfm, hull, random, ply:FILE or predict[:FOLDER][+refine[:FOLDER]] "
    "(auto: the first of sfm, hull, random that can be).",
)
@click.option("--views", metavar="KIND", help="dense, or sparse:K for K context views (dense).")
@click.option("--batch-views", type=int, help="Views per step (4).")
@click.option("--max-size", type=int, metavar="PX", help="Long side of the photos (1600).")
@click.option(
    "--densify",
    metavar="KIND",
    help="auto, none, default (3DGS) or mcmc (auto: default in dense runs of 3000 steps, or with a time budget alone).",
)
@click.option("--max-gaussians", type=int, help="The most there may be; a larger initial scene is thinned (1000000).")
@click.option("--sh-degree", type=int, help="Degree of the spherical harmonics, 0..3 (3).")
@click.option(
    "--uncertainty",
    metavar="PATH",
    help="Hold back what few views see: off, predict (with --init predict), or the folder of a trained head (off).",
)
@click.option("--average", type=click.Choice(["on", "off"]), help="Output the running average of the parameters (on).")
@click.option("--no-guard", is_flag=True, help="Trust learned optimizers blindly, and hold out none of few views.")
@click.option("--test-every", type=int, help="Hold out every n-th photo; 0 none (8).")
@click.option("--eval-at", metavar="LIST", help="Steps at which to evaluate, e.g. 0,100,1000.")
@click.option(
    "--time-budget",
    type=float,
    metavar="SECONDS",
    help="Stop after this much optimisation time; schedules are then those of 30000 steps.",
)
@click.option("--max-memory", type=int, metavar="MIB", help="Most memory to hold (what the machine has free).")
@click.option("--seed", type=int, help="Of all randomness (0).")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write (outputs/SCENE/OPTIMIZER/TIME).")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, or the newest unfinished one.")
@click.option("--view", "show", is_flag=True, help="Show the run in the browser while it goes on (needs viser).")
@click.option("--view-at", metavar="HOST:PORT", help="Where the browser finds it (127.0.0.1:8080); implies --view.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per evaluation, and one for the end.")
@click.argument("overrides", nargs=-1, metavar="[GROUP.KEY=VALUE]...")
def optimize(
    overrides: tuple[str, ...],
    resume: bool,
    quiet: bool,
    as_json: bool,
    show: bool,
    view_at: str | None,
    **flags: Any,
) -> None:
    """Optimise a scene and write a PLY, metrics, pictures and a report."""
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    interrupts = Interrupts()
    from learn2splat.api import open_session
    from learn2splat.console import ConsoleListener, JsonListener
    from learn2splat.session import Listener

    for override in overrides:
        if "=" not in override:
            raise click.UsageError(f"{override!r} is neither an option nor GROUP.KEY=VALUE")
    session = open_session(_settings(flags), overrides, resume=resume)
    listener: Listener = JsonListener() if as_json else Listener() if quiet else ConsoleListener()
    if show or view_at:
        listener = with_viewer(listener, view_at, interrupts)
    result = session.run(listener, interrupts)
    if result.outcome.message:
        click.echo(f"l2s: {result.outcome.message}", err=True)
    sys.exit(_exit_code(result.outcome.kind.value, interrupts.received))


@cli.command(
    "meta-train",
    epilog="""\b
Examples:
  l2s meta-train
  l2s meta-train --out outputs/meta/mine train.meta_steps=2000 "data.captures=[/captures/garden]"
  l2s meta-train objective=greedy
  l2s meta-train experiment=predict""",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the training; one that holds a run is resumed.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.argument("overrides", nargs=-1, metavar="[GROUP.KEY=VALUE]...")
def meta_train(overrides: tuple[str, ...], out: Path | None, quiet: bool) -> None:
    """Meta-train a learned optimizer, or train an initialiser; resumes by itself."""
    interrupts = Interrupts()
    from learn2splat.config import compose
    from learn2splat.training import meta_train as train
    from learn2splat.training_console import training_console

    config = compose("meta_train", overrides)
    if out is not None:
        config.out = str(out)
    finished = train(config, stop=interrupts, listener=None if quiet else training_console(interrupts))
    if finished is None:
        click.echo(f"l2s: interrupted; the same command goes on from {config.out}", err=True)
        sys.exit(128 + (interrupts.received or signal.SIGINT))
    click.echo(str(finished))


@cli.command(
    epilog="""\b
Examples:
  l2s leaderboard
  l2s leaderboard --scenes /captures/garden --optimizers adam,mine=outputs/meta/mine/optimizer
  l2s leaderboard --plugin examples.sign_descent:SignDescent preset=full --shard 0/8"""
)
@click.option("--scenes", metavar="PATH", multiple=True, help="Measure on this instead; may be given again.")
@click.option(
    "--optimizers", metavar="LIST", help="[LABEL=]NAME,...: names, trained folders, entry points (all names)."
)
@click.option("--settings", metavar="LIST", help="VIEWS[+INIT],...: dense, sparse:3, dense+random, ...")
@click.option("--plugin", "plugins", metavar="MODULE:CLASS", multiple=True, help="One more optimizer.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; the rows in it are not measured again.")
@click.option("--workers", type=int, help="Processes for fixed steps (one per core).")
@click.option("--shard", metavar="I/N", help="Every N-th scene from the I-th, without pages (0/1).")
@click.option("--only-report", is_flag=True, help="Measure nothing; tables and pages of the rows there are.")
@click.argument("overrides", nargs=-1, metavar="[GROUP.KEY=VALUE]...")
def leaderboard(overrides: tuple[str, ...], only_report: bool, **flags: Any) -> None:
    """Compare optimizers on scenes at fixed steps and seconds; goes on where it was stopped."""
    interrupts = Interrupts()
    from learn2splat.board import Board, compose_board

    board = Board(compose_board({name: value for name, value in flags.items() if value}, overrides), click.echo)
    if not only_report:
        board.measure(interrupts)
    page = board.write()
    if interrupts.received:
        click.echo("l2s: interrupted; the same command goes on", err=True)
        sys.exit(128 + interrupts.received)
    click.echo(str(page or board.folder))


cli.add_command(evaluate)
cli.add_command(render)
cli.add_command(view)
cli.add_command(scene)


@cli.command()
def doctor() -> None:
    """Show versions and backends, and how to get what is missing."""
    from learn2splat.doctor import report

    click.echo(report())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and turns errors into exit codes and one clear message."""
    sys.exit(run(lambda: cli.main(arguments, prog_name="l2s", standalone_mode=False)))


def run(command: Callable[[], object]) -> int:
    """Run ``command``; the exit code that belongs to how it ended."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged photos, beside the error that names them
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        command()
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_BUG
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        click.echo("l2s: interrupted", err=True)
        return 128 + signal.SIGINT
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    from learn2splat.files import CannotWriteError
    from learn2splat.memory import REMEDY, MemoryLimitError
    from learn2splat.render.base import BackendMissingError
    from learn2splat.rollout import is_out_of_memory

    if isinstance(error, BackendMissingError):
        code = EXIT_CANNOT_WRITE
    elif is_out_of_memory(error):
        click.echo(f"l2s: out of memory: {error if isinstance(error, MemoryLimitError) else REMEDY}", err=True)
        return EXIT_MEMORY
    elif isinstance(error, UserError | FileExistsError):
        code = EXIT_BAD_INPUT
    elif isinstance(error, CannotWriteError) or (isinstance(error, OSError) and error.errno in {*FULL, errno.EROFS}):
        click.echo(f"l2s: {error}; {_remedy(error.errno)}", err=True)
        return EXIT_CANNOT_WRITE
    elif isinstance(error, OSError):
        click.echo(f"l2s: {error}; check that it is there, that it can be read and what it is", err=True)
        return EXIT_BAD_INPUT
    else:
        traceback.print_exception(error)
        click.echo("l2s: this is a bug of learn2splat; please report the lines above", err=True)
        return EXIT_BUG
    click.echo(f"l2s: {error}", err=True)
    return code


def _remedy(number: int | None) -> str:
    """What to do about an error of the system, by its number, when something cannot be written."""
    free, unlock, other = "free some space", "make the folder writable", "name another with --out"
    if number is None:
        return f"{free}, {unlock}, or {other}"
    return f"{free}, or {other}" if number in FULL else f"{unlock}, or {other}" if number in LOCKED else other


def _exit_code(outcome: str, signal_number: int | None) -> int:
    codes = {"ok": 0, "diverged": EXIT_DIVERGED, "nonfinite": EXIT_DIVERGED, "out_of_memory": EXIT_MEMORY}
    return codes[outcome] if outcome in codes else 128 + (signal_number or signal.SIGINT)


def _settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings whose flags were used."""
    settings = {name: value for name, value in flags.items() if value is not None}
    if settings.pop("no_guard"):
        settings["guard"] = "off"
    if "average" in settings:
        settings["average"] = settings["average"] == "on"
    if "eval_at" in settings:
        try:
            settings["eval_at"] = [int(step) for step in settings["eval_at"].split(",")]
        except ValueError as error:
            raise click.UsageError(f"--eval-at {settings['eval_at']!r}: give steps, e.g. 0,100,1000") from error
    return settings


if __name__ == "__main__":
    main()
