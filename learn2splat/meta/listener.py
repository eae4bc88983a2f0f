"""Who hears of a meta-training while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from learn2splat.meta.progress import Progress
from learn2splat.meta.settings import TrainSettings


class TrainingListener:
    """Hears of a meta-training; every method may be overridden."""

    def on_start(self, progress: Progress, settings: TrainSettings) -> None:
        """The training begins, or goes on after a checkpoint; ``progress`` stays up to date."""

    def on_note(self, text: str) -> None:
        """There is something that the user may want to know."""

    def on_validation(self) -> None:
        """A validation begins."""

    def on_row(self, row: Mapping[str, float]) -> None:
        """A meta-step was taken or the untrained optimizer validated; ``row`` is the last of the history."""

    def on_saved(self) -> None:
        """A checkpoint was written."""

    def on_end(self, folder: Path) -> None:
        """The training in ``folder`` is finished or was stopped; its files are written."""

    def on_abort(self) -> None:
        """The training ends with an exception."""


class Listeners(TrainingListener):
    """Several listeners, told in turn."""

    def __init__(self, *listeners: TrainingListener) -> None:
        self.listeners = listeners

    def on_start(self, progress: Progress, settings: TrainSettings) -> None:
        for listener in self.listeners:
            listener.on_start(progress, settings)

    def on_note(self, text: str) -> None:
        for listener in self.listeners:
            listener.on_note(text)

    def on_validation(self) -> None:
        for listener in self.listeners:
            listener.on_validation()

    def on_row(self, row: Mapping[str, float]) -> None:
        for listener in self.listeners:
            listener.on_row(row)

    def on_saved(self) -> None:
        for listener in self.listeners:
            listener.on_saved()

    def on_end(self, folder: Path) -> None:
        for listener in self.listeners:
            listener.on_end(folder)

    def on_abort(self) -> None:
        for listener in self.listeners:
            listener.on_abort()
