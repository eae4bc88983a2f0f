"""A device that is not the CPU, on a machine without one.

    python -m tests.elsewhere                       # every optimizer, compared with what it does on the CPU
    python -m tests.elsewhere optimize --steps 4    # any command of l2s

Its tensors hold tensors of the CPU and say that they lie on the device `NAME`. An operation on tensors of two devices
fails, as on a GPU, and so does reading numbers through a pointer. What runs here has only its kernels left to go wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack
from unittest import mock

import torch
import torch.utils.backend_registration as registration
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from learn2splat.cameras import Cameras
from learn2splat.render.base import RenderOptions
from learn2splat.render.jacobian import DifferenceJacobian, Jacobian
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene

NAME = "elsewhere"
ops = torch.ops.aten
MOVES = (ops._to_copy.default, ops.copy_.default)
INDEXED = (ops.index.Tensor, ops.index_put.default, ops.index_put_.default, ops._index_put_impl_.default)
"""As on a GPU, rows of a tensor of the device may be named by a tensor of the CPU."""


class There(Tensor):
    """A tensor on the device."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        at = {"strides": here.stride(), "storage_offset": here.storage_offset(), "device": torch.device(NAME, 0)}
        self: There = Tensor._make_wrapper_subclass(cls, here.size(), dtype=here.dtype, layout=here.layout, **at)
        self.here = here
        return self

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(operation, arguments, dict(options or {}))


class Elsewhere(TorchDispatchMode):
    """While it is entered, there is such a device."""

    def __enter__(self) -> Elsewhere:
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(operation, arguments, dict(options or {}))


def _computed(operation: Any, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
    elsewhere = any(isinstance(tensor, There) for tensor in tensors)
    left = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, There) and tensor.ndim]
    may_mix = operation in MOVES or (operation in INDEXED and isinstance(arguments[0], There))
    if elsewhere and left and not may_mix:
        raise RuntimeError(f"{operation}: tensors on {NAME} and, of shape {left}, on the CPU")
    result_elsewhere = isinstance(arguments[0], There) if operation is ops.copy_.default else elsewhere
    if options.get("device") is not None:
        result_elsewhere = torch.device(options["device"]).type == NAME
        options["device"] = torch.device("cpu")
    if torch.Tag.inplace_view in operation.tags and isinstance(arguments[0], There):
        with no_dispatch():
            operation(*arguments, **options)
    same = {id(tensor.here): tensor for tensor in tensors if isinstance(tensor, There)}

    def unwrapped(value: Any) -> Any:
        return value.here if isinstance(value, There) else value

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return same[id(value)] if id(value) in same else There(value) if result_elsewhere else value

    return tree_map(wrapped, operation(*tree_map(unwrapped, arguments), **tree_map(unwrapped, options)))


class ElsewhereRenderer(ReferenceRenderer):
    """The reference on the device, with derivatives as gsplat's."""

    capabilities = replace(ReferenceRenderer.capabilities, devices=("cpu", NAME), jacobian="central difference")

    def jacobian(self, scene: GaussianScene, cameras: Cameras, **options: Unpack[RenderOptions]) -> Jacobian:
        return DifferenceJacobian(lambda at: self.render(at, cameras, **options), scene)


class Backend:
    """What torch asks a device's module for; it has no random numbers of its own."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: int) -> None:
        pass

    def set_rng_state(self, state: None, device: int) -> None:
        pass


def register() -> None:
    """Make the device's name known to torch; for a process of its own, since it cannot be undone."""
    registration._setup_privateuseone_for_python_backend(NAME, Backend())
    torch.autograd.set_multithreading_enabled(False)  # the mode is that of one thread


def every_optimizer() -> None:
    """Fails where one moves a scene differently, or mixes devices."""
    from tests.conformance.test_every_optimizer import OPTIMIZERS
    from tests.devices import assert_same_movement, moved

    for name in OPTIMIZERS:
        print(name, flush=True)
        here = moved(name, ElsewhereRenderer(), "cpu")
        with Elsewhere():
            there = moved(name, ElsewhereRenderer(), NAME)
        assert_same_movement(there, here)


def run(command: list[str]) -> None:
    """A command of ``l2s`` with renderer=reference and device=cuda, or for training device=elsewhere."""
    from learn2splat.cli import cli

    with (
        mock.patch("learn2splat.capture._device", lambda name: torch.device(NAME if name == "cuda" else name)),
        mock.patch("learn2splat.render.reference.ReferenceRenderer", ElsewhereRenderer),
        Elsewhere(),
    ):
        cli.main(command, prog_name="l2s", standalone_mode=False)


if __name__ == "__main__":
    register()
    run(sys.argv[1:]) if sys.argv[1:] else every_optimizer()
