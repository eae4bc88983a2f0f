"""Optimizers as methods of the harness: by name, from a folder, from a plugin, and the grid of global Adam settings."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from learn2splat import checkpoint
from learn2splat.config import build, choices, compose
from learn2splat.errors import UserError
from learn2splat.eval.protocol import Method
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.pretrained import is_pretrained, load_pretrained
from learn2splat.optim.rates import GroupRates, PositionDecay, PowerDecay, Schedule

GUARDED = "+guard"
"""Ending of a method's name that switches its guard on."""
PIXEL_MEANS_RATE = 0.011
"""Rate of the means in pixel footprints that is about gsplat's on common captures."""
PLUGINS = "learn2splat.optimizers"
"""Group of the entry points through which an installed package offers optimizers."""
_NOT_OURS = {*sys.stdlib_module_names, "numpy", "torch"}


def method(name: str) -> Method:
    """The optimizer that ``[LABEL=]NAME`` names; the label is what the table shows.

    NAME is the folder of a trained optimizer, a file of ``configs/optimizer``, an entry point of the group `PLUGINS`,
    or ``package.module:Class``, a class or function that makes one without arguments.

    ``NAME+guard`` is the same with its guard, as another line of the table.

    Raises:
        UserError: there is none of these.
    """
    if name.endswith(GUARDED):
        return replace(method(name.removesuffix(GUARDED)), name=name, guard=True)
    if is_pretrained(name):
        return Method(str(name), lambda: load_pretrained(name), _digest(checkpoint.digest_of(Path(name))))  # type: ignore[arg-type,return-value]
    label, equals, rest = name.partition("=")
    if equals:
        return replace(method(rest), name=label)
    installed = {entry.name: entry for entry in entry_points(group=PLUGINS)}
    if ":" in name:
        return _plugin(EntryPoint(name.rpartition(":")[2], name, PLUGINS))
    if name in installed and name not in choices("optimizer"):
        return _plugin(installed[name])
    config = compose("optimize", [f"optimizer={name}"]).optimizer
    return Method(name, lambda: build(config), _digest(OmegaConf.to_container(config, resolve=True)))


def pinned(method: Method) -> Method:
    """``method`` with a digest that covers its code and its weights too.

    The code is the source of the modules in which the optimizer's classes, and those of its attributes, are defined.
    """
    optimizer = method.build()
    parts: Iterable[Any] = [optimizer, *vars(optimizer).values()]
    content = hashlib.sha256(method.digest.encode())
    if isinstance(optimizer, torch.nn.Module):
        parts = [*parts, *optimizer.modules()]
        for name, tensor in sorted(optimizer.state_dict().items()):
            content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    modules = {base.__module__ for part in parts for base in type(part).__mro__}
    for module in sorted(name for name in modules if name.partition(".")[0] not in _NOT_OURS):
        content.update(Path(str(sys.modules[module].__file__)).read_bytes())
    return replace(method, digest=content.hexdigest()[:16])


def adam_grid() -> list[Method]:
    """Adam with global multipliers x units of the means, fixed before any evaluation.

    {x1 with decaying means, x5, x10, x20, 40 / sqrt(1 + t / 20)} x {means in scene units, in pixel footprints}. The
    best of them at each step *on the test scene* is the oracle that learned optimizers are held against.
    """
    schedules: dict[str, Schedule] = {
        "x1-decay": PositionDecay(),
        "x5": PowerDecay(scale=5.0),
        "x10": PowerDecay(scale=10.0),
        "x20": PowerDecay(scale=20.0),
        "x40-sqrt": PowerDecay(scale=40.0, warm=20.0, power=0.5),
    }
    units = {"extent": GroupRates(), "footprint": GroupRates(means=PIXEL_MEANS_RATE, means_unit="footprint")}
    methods = []
    for label, schedule in schedules.items():
        for unit, rates in units.items():
            name = f"adam-grid-{label}-{unit}"
            methods.append(Method(name, lambda r=rates, s=schedule: Adam(r, s), _digest(f"{rates} {schedule}")))  # type: ignore[misc]
    return methods


def _plugin(entry: EntryPoint) -> Method:
    """The class that ``entry`` refers to; modules may also lie in the working directory."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        factory = entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"no optimizer {entry.value!r} ({error}); give package.module:Class") from error
    source = Path(str(sys.modules[entry.module].__file__)).read_text(encoding="utf-8")
    return Method(entry.name, lambda: _checked(factory, entry.value), _digest([entry.value, source]))


def _checked(factory: Callable[[], Any], reference: str) -> SceneOptimizer:
    try:
        optimizer = factory()
    except TypeError as error:
        raise UserError(f"{reference} cannot be built without arguments: {error}") from error
    missing = [name for name in ("needs", "init", "update", "reindex") if not hasattr(optimizer, name)]
    if missing:
        raise UserError(f"{reference} is no optimizer: it lacks {', '.join(missing)}; see learn2splat/optim/base.py")
    return optimizer


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
