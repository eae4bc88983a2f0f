"""Processes that share out work: one thread each, keeping the scenes they loaded, gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing.synchronize import Event

import torch

from learn2splat.data.base import SceneData
from learn2splat.data.cache import fit_cache
from learn2splat.data.sources import load_scene
from learn2splat.memory import machine_memory_mb

_context = multiprocessing.get_context("spawn")
_stop: Event | None = None


def processes(count: int, stop: Event | None = None) -> ProcessPoolExecutor:
    """``count`` fresh processes that share the machine's memory; `stopped` tells them whether ``stop`` is set."""
    return ProcessPoolExecutor(count, _context, initializer=_begin, initargs=(stop, machine_memory_mb() / count))


def event() -> Event:
    """Something that `processes` can be stopped with."""
    return _context.Event()


def stopped() -> bool:
    """Whether this process was asked to give up what it is doing."""
    return _stop is not None and _stop.is_set()


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=64)
def kept_scene(name: str, max_size: int, test_every: int) -> SceneData:
    """`load_scene`, once per process; its decoded photos are kept as far as `PIXELS` goes."""
    return load_scene(name, max_size=max_size, test_every=test_every)


def _begin(stop: Event | None, memory_mb: float) -> None:
    global _stop
    _stop = stop
    fit_cache(memory_mb)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
