"""TensorBoard's event files of a meta-training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from learn2splat.meta.listener import TrainingListener
from learn2splat.meta.progress import Progress


class EventWriter(TrainingListener):
    """Writes every number of every row as a scalar of that name.

    Args:
        folder: of the event files; points in it that ``progress`` does not know of are purged.
        progress: of the training that begins or goes on.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=progress.meta_step + 1 if progress.history else 0)

    def on_row(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "meta_step":
                self.writer.add_scalar(name, value, int(row["meta_step"]))

    def on_saved(self) -> None:
        self.writer.flush()

    def on_end(self, folder: Path) -> None:
        self.writer.close()

    def on_abort(self) -> None:
        self.writer.close()
