"""Optimizers as methods of the harness: by name, from a folder, and the grid of global Adam settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from learn2splat import checkpoint
from learn2splat.config import build, compose
from learn2splat.eval.protocol import Method
from learn2splat.optim.adam import Adam
from learn2splat.optim.learned.pretrained import is_pretrained, load_pretrained
from learn2splat.optim.rates import GroupRates, PositionDecay, PowerDecay, Schedule

GUARDED = "+guard"
"""Ending of a method's name that switches its guard on."""
PIXEL_MEANS_RATE = 0.011
"""Rate of the means in pixel footprints that is about gsplat's on common captures."""


def method(name: str) -> Method:
    """The optimizer of ``configs/optimizer/NAME.yaml``, or a trained one from the folder ``NAME``.

    ``NAME+guard`` is the same with its guard, as another line of the table.

    Raises:
        UserError: there is neither.
    """
    if name.endswith(GUARDED):
        return replace(method(name.removesuffix(GUARDED)), name=name, guard=True)
    if is_pretrained(name):
        manifest = (Path(name) / checkpoint.MANIFEST).read_text(encoding="utf-8")
        return Method(str(name), lambda: load_pretrained(name), _digest(json.loads(manifest)["sha256"]))  # type: ignore[arg-type,return-value]
    config = compose("optimize", [f"optimizer={name}"]).optimizer
    return Method(name, lambda: build(config), _digest(OmegaConf.to_container(config, resolve=True)))


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


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
