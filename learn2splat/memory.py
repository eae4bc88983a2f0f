"""How much memory this process takes, and how much it may take."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

RESERVE = 0.05
"""Share of the machine's memory that is left to others."""
CHECK_EVERY = 10
"""Steps between two looks at the resident memory."""
REMEDY = "lower --max-size, --batch-views or --max-gaussians"
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class MemoryLimitError(MemoryError):
    """More memory would be taken than is allowed; the message says how much, and what to lower."""


def peak_memory_mb() -> float:
    """Peak resident memory of this process, or peak allocated CUDA memory, in MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mb() -> float:
    """Memory that this process holds now, in MiB; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def give_back() -> None:
    """Return what was freed and kept for the next step to the system, where the C library can."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def machine_memory_mb() -> float:
    """What this process may hold before the machine swaps, in MiB: what it holds and what is free, less `RESERVE`.

    A limit of the container counts as the machine's memory.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    free = _free_mb()
    room = total if free is None else min(total, free + resident_mb())
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
        room = min(room, int(CGROUP_LIMIT.read_text(encoding="ascii")) / 2**20)
    return (1 - RESERVE) * room


class MemoryLimit:
    """A question between steps, which raises when the process has grown too large.

    Args:
        limit_mb: most resident memory in MiB.
        stop: the question that it passes on.
    """

    def __init__(self, limit_mb: float, stop: Callable[[], bool]) -> None:
        self.limit_mb, self.stop = limit_mb, stop
        self.asked = 0

    def __call__(self) -> bool:
        """What ``stop`` says.

        Raises:
            MemoryLimitError: more than the limit is resident.
        """
        if self.asked % CHECK_EVERY == 0:
            self.require(0.0)
        self.asked += 1
        return self.stop()

    def require(self, more_mb: float) -> None:
        """See that ``more_mb`` beside what is resident is within the limit.

        Raises:
            MemoryLimitError: it is not.
        """
        needed = resident_mb() + more_mb
        if needed > self.limit_mb:
            give_back()
            needed = resident_mb() + more_mb
        if needed > self.limit_mb:
            raise MemoryLimitError(
                f"{needed:,.0f} MiB are needed and {self.limit_mb:,.0f} MiB allowed: {REMEDY}, or raise --max-memory"
            )


def _free_mb() -> float | None:
    """Memory that can be had without swapping, in MiB."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) / 2**10 if found else None
