"""Signals as a question that a long job asks between its steps."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupts:
    """Turns SIGINT and SIGTERM into a request to stop; a second SIGINT after a first one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def __call__(self) -> bool:
        return self.received is not None
