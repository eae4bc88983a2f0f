"""What this process keeps of decoded photos, masks and undistortion maps: the latest, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray
from torch import Tensor

Value = TypeVar("Value")

MOST_BYTES = 2 << 30
MEMORY_SHARE = 0.25
"""Share of the memory that a process may hold that goes to decoded photos, up to `MOST_BYTES`."""


class LruCache(Generic[Value]):
    """Keeps the most recently used values up to a number of bytes; safe to use from several threads."""

    def __init__(self, budget_bytes: int, size_of: Callable[[Value], int]) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._size_of = size_of
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made by ``make`` when it is not there (outside the lock: threads work in parallel)."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key in self._values or self._size_of(value) > self.budget_bytes:
                return self._values.get(key, value)
            self._values[key] = value
            self.used_bytes += self._size_of(value)
            self._shrink()
        return value

    @property
    def room_bytes(self) -> int:
        """What it may come to hold beside what it holds."""
        return max(0, self.budget_bytes - self.used_bytes)

    def resize(self, budget_bytes: int) -> None:
        """Keep up to ``budget_bytes`` from now on."""
        with self._lock:
            self.budget_bytes = budget_bytes
            self._shrink()

    def _shrink(self) -> None:
        while self.used_bytes > self.budget_bytes:
            _, oldest = self._values.popitem(last=False)
            self.used_bytes -= self._size_of(oldest)


PIXELS: LruCache[Tensor | NDArray[Any]] = LruCache(MOST_BYTES, lambda value: value.nbytes)
"""The one cache of all captures of this process; keys are (capture, what, ...)."""


def fit_cache(memory_mb: float) -> None:
    """Keep no more in `PIXELS` than a process that may hold ``memory_mb`` MiB should."""
    PIXELS.resize(min(MOST_BYTES, int(MEMORY_SHARE * memory_mb * 2**20)))
