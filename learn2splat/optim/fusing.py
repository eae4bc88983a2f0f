"""Update rules as a few kernels on a GPU, where they are hundreds in eager torch: compiled for runs that are long."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import torch

LONG = 10_000
"""Steps from which a run is worth the half minute that compiling takes."""

P = ParamSpec("P")
R = TypeVar("R")


def pays(device: torch.device, horizon: int | None) -> bool:
    """Whether to compile for a run of ``horizon`` steps; None: nobody knows how many there will be."""
    return device.type == "cuda" and horizon is not None and horizon >= LONG


@cache
def compiled(function: Callable[P, R]) -> Compiled[P, R]:
    """``function`` as a `Compiled` one, the same for every caller."""
    return Compiled(function)


class Compiled(Generic[P, R]):
    """A function of tensors by torch.compile, for any number of rows; uncompiled where that does not work.

    Args:
        function: must not change its arguments; results are equal to rounding.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        update_wrapper(self, function)
        self._plain = function
        self._call: Callable[..., Any] = torch.compile(function, dynamic=True)

    def __call__(self, *args: P.args, **options: P.kwargs) -> R:
        try:
            found: R = self._call(*args, **options)
        except Exception as error:  # whatever a compiler, or its absence, may raise
            found = self._plain(*args, **options)  # raises what is not the compiler's fault
            self._call = self._plain
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            warnings.warn(f"steps are not compiled, and slower: {reason}", stacklevel=2)
        return found
