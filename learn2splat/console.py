"""How a run shows itself in a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from learn2splat.estimate import Estimate
from learn2splat.rollout_state import StepRecord
from learn2splat.run_folder import json_line
from learn2splat.session import Listener, Result, Session


class JsonListener(Listener):
    """One JSON object per evaluation, then one for the end."""

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        print(json_line(row), flush=True)

    def on_end(self, result: Result) -> None:
        ending = {"outcome": result.outcome.kind.value, "steps": result.outcome.steps, "out": str(result.folder)}
        print(json.dumps(ending), flush=True)


class ConsoleListener(Listener):
    """A header, a progress bar with PSNR, speed and time left, and where the files are."""

    def __init__(self) -> None:
        self.console = Console()
        self.progress = Progress(
            TextColumn("[bold]{task.fields[step]:>6,}[/]{task.fields[steps]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("[cyan]{task.fields[psnr]:.2f} dB[/]"),
            TextColumn("{task.fields[speed]:.1f} steps/s"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.seconds = 0.0
        self.steps = 0
        self.notes: list[str] = []

    def on_start(self, session: Session) -> None:
        self.session, data, self.notes = session, session.data, session.capture.notes
        self.console.print(
            f"[bold]{data.name}[/]: {len(session.train)} training and {len(session.test)} held-out views, "
            f"{len(session.rollout.state.scene):,} Gaussians, {type(session.scene_loss.renderer).__name__}"
        )
        for warning in session.warnings:
            self.console.print(f"[yellow]warning:[/] {warning}")
        self.task = self.progress.add_task(
            "",
            total=1.0,
            step=session.rollout.state.step,
            steps="" if session.config.steps is None else f" / {session.steps:,}",
            loss=math.nan,
            psnr=math.nan,
            speed=0.0,
        )
        self.progress.start()

    def on_step(self, record: StepRecord) -> None:
        self.seconds += record.seconds_render + record.seconds_update
        self.steps += 1
        self.progress.update(
            self.task,
            completed=self.session.progress,
            step=record.step,
            loss=record.loss,
            speed=self.steps / max(self.seconds, 1e-9),
        )

    def on_estimate(self, estimate: Estimate) -> None:
        step, row = 1e3 * estimate.seconds_per_step, estimate.bytes_per_gaussian / 1e3
        text = f"{step:.1f} ms per step: about {_clock(estimate.seconds)} and {estimate.memory_mb:,.0f} MiB in all"
        if estimate.max_gaussians > estimate.gaussians:
            text += (
                f"; at {estimate.max_gaussians:,} Gaussians of {row:.1f} kB at most {_clock(estimate.seconds_at_cap)} "
                f"and {estimate.memory_at_cap_mb:,.0f} MiB"
            )
        self.progress.console.print(text)

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self.progress.update(self.task, psnr=row["psnr"])
        self.progress.console.print(
            f"step {row['step']:>6}  {row['psnr']:6.2f} dB  SSIM {row['ssim']:.4f}  FLIP {row['flip']:.4f}"
            f"  {row['seconds']:8.2f} s  {row['gaussians']:>9,} Gaussians  ({row['split']})"
        )

    def on_abort(self) -> None:
        self.progress.stop()

    def on_end(self, result: Result) -> None:
        self.progress.stop()
        for note in self.notes:
            self.console.print(f"[dim]{note}[/]", soft_wrap=True, highlight=False)
        if actions := result.metrics[-1]["guard_actions"]:
            self.console.print(f"[yellow]guard:[/] the learned optimizer failed {actions} times, its base stepped in")
        if result.folder is not None:
            self.console.print(f"[bold green]report[/] {result.folder / 'report.html'}", soft_wrap=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
