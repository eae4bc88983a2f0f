"""How a meta-training shows itself: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from learn2splat.meta.listener import TrainingListener
from learn2splat.meta.progress import Progress, clock, smoothed
from learn2splat.meta.settings import TrainSettings

RECENT = 200
"""Meta-steps over which the panel smooths."""
SHOWN = 4
"""Validations that the panel lists."""


def training_console(stopping: Callable[[], bool]) -> TrainingListener:
    """The listener that suits standard output.

    Args:
        stopping: whether the user asked for a stop; the panel says so.
    """
    console = Console()
    # a file is none, though FORCE_COLOR may have it coloured
    live = console.is_interactive and console.file.isatty()
    return TrainingPanel(console, stopping) if live else TrainingLines(console)


class TrainingLines(TrainingListener):
    """One line every few meta-steps, and one per validation."""

    def __init__(self, console: Console, every: int = 10) -> None:
        self.console, self.every = console, every
        self.recent: list[Mapping[str, float]] = []

    def on_note(self, text: str) -> None:
        self._print(escape(text))

    def on_row(self, row: Mapping[str, float]) -> None:
        if "score" in row:
            self._print(f"meta-step {row['meta_step']:>6.0f}  [bold cyan]{row['score']:.3f} dB[/] in validation")
        if "loss" not in row:
            return
        self.recent.append(row)
        if len(self.recent) == self.every:
            mean = {key: sum(r[key] for r in self.recent) / self.every for key in ("loss", "gradient_norm", "seconds")}
            deaths = sum(r["deaths"] for r in self.recent)
            self._print(
                f"meta-step {row['meta_step']:>6.0f}  loss {mean['loss']:+.4f}  |g| {mean['gradient_norm']:.3f}"
                f"  deaths {deaths:.0f}  {mean['seconds']:.2f} s"
            )
            self.recent.clear()

    def on_end(self, folder: Path) -> None:
        self._print(f"[bold green]report[/] {escape(str(folder / 'report.html'))}")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


class TrainingPanel(TrainingListener):
    """A panel that stays in place; see `panel`.

    Args:
        console: a terminal.
        stopping: whether the user asked for a stop.
    """

    def __init__(self, console: Console, stopping: Callable[[], bool]) -> None:
        self.stopping, self.progress, self.settings = stopping, Progress(), TrainSettings()
        self.state = "training"
        self.live = Live(console=console, refresh_per_second=1, get_renderable=self._panel)

    def on_start(self, progress: Progress, settings: TrainSettings) -> None:
        self.progress, self.settings = progress, settings
        self.live.start()

    def on_note(self, text: str) -> None:
        self.live.console.print(escape(text), soft_wrap=True)

    def on_validation(self) -> None:
        self.state = "validating"

    def on_row(self, row: Mapping[str, float]) -> None:
        self.state = "training"

    def on_end(self, folder: Path) -> None:
        self.state = "finished" if self.progress.meta_step >= self.settings.meta_steps else "stopped"
        self.live.stop()
        self.live.console.print(f"[bold green]report[/] {escape(str(folder / 'report.html'))}", soft_wrap=True)

    def on_abort(self) -> None:
        self.state = "aborted"
        self.live.stop()

    def _panel(self) -> RenderableType:
        waiting = self.state in ("training", "validating") and self.stopping()
        return panel(self.progress, self.settings, f"{self.state}, then stopping" if waiting else self.state)


def panel(progress: Progress, settings: TrainSettings, state: str) -> Panel:
    """What a training has come to, for a terminal of any width."""
    left = progress.seconds_left(settings)
    head = Table.grid(padding=(0, 1), expand=True)
    head.add_column(no_wrap=True, overflow="crop")
    head.add_column(ratio=1)
    head.add_column(no_wrap=True, overflow="crop")
    head.add_row(
        f"[bold]{progress.meta_step}/{settings.meta_steps}[/]",
        ProgressBar(total=max(1, settings.meta_steps), completed=progress.meta_step),
        "" if left is None else f"{clock(left)} left",
    )
    facts = Columns(_facts(progress, settings), equal=True, padding=(0, 3))
    parts = [head, facts, *_validations(progress)]
    return Panel(Group(*parts), title="meta-training", subtitle=state, border_style="dim")


def _facts(progress: Progress, settings: TrainSettings) -> list[Text]:
    deaths = progress.column("deaths")[1]
    if not deaths:
        return []

    def lately(name: str) -> float:
        return smoothed(progress.column(name, last=RECENT)[1])[-1]

    facts = {
        "loss": f"{lately('loss'):+.4f}",
        "gradient norm": f"{lately('gradient_norm'):.3f}",
        "s per meta-step": f"{lately('seconds'):.2f}",
        "samples/s": f"{settings.samples / max(lately('seconds'), 1e-9):.2f}",
        "deaths": f"{sum(deaths):.0f} ({sum(deaths[-RECENT:]):.0f} lately)",
    }
    if "buffer" in progress.history[-1]:
        facts["lives in buffer"] = f"{progress.history[-1]['buffer']:.0f}"
    return [_line(name, f"{value:<12}") for name, value in facts.items()]


def _validations(progress: Progress) -> list[RenderableType]:
    steps, scores = progress.column("score")
    base, best = progress.base_score, progress.best
    if base is None or best is None:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("meta-step", "dB", "over untrained"):
        table.add_column(title, justify="right", no_wrap=True, overflow="crop")
    for step, score in list(zip(steps, scores, strict=True))[-SHOWN:]:
        style = "bold cyan" if step == best["meta_step"] else ""
        table.add_row(f"{step:.0f}", f"{score:.3f}", f"{score - base:+.3f}", style=style)
    found = f"{best['score']:.3f} dB after {best['meta_step']:.0f}"
    return [_line("untrained", f"{base:.3f} dB"), _line("best validation", found), Sparkline(scores), table]


def _line(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<17}", "dim"), (value, "bold"), no_wrap=True, overflow="crop")


class Sparkline:
    """The last of some values as a row of bars, as many as there is room for; nothing where bars cannot be shown."""

    BARS = "▁▂▃▄▅▆▇█"

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.values[-options.max_width :]
        finite = [value for value in shown if math.isfinite(value)]
        if options.ascii_only or len(finite) < 2:
            return
        low, high = min(finite), max(finite)
        scale = (len(self.BARS) - 1) / ((high - low) or 1.0)
        bars = [self.BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in shown]
        yield Text("".join(bars), style="cyan", no_wrap=True, overflow="crop")
