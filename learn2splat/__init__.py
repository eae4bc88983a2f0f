"""learn2splat: learned and conventional optimizers for 3D Gaussian Splatting.

Importing does no work: the public names below load on first use.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

if "torch" not in sys.modules:
    # libgomp reads this when it is loaded. Spinning workers cost up to 20x when another process wants the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_PUBLIC = {
    "load_scene": "learn2splat.data.sources",
    "optimize": "learn2splat.api",
    "torch_optimizer": "learn2splat.api",
    "LearnedOptimizer": "learn2splat.api",
    "GaussianScene": "learn2splat.scene.gaussians",
    "SceneData": "learn2splat.data.base",
    "Cameras": "learn2splat.cameras",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'learn2splat' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
