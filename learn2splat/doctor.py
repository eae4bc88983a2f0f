"""What is installed, which backends work here, why one does not, and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from learn2splat import __version__, native
from learn2splat.render import gsplat

OPTIONAL = {
    "gsplat": "pip install 'learn2splat[cuda]'",
    "torch-scatter": "pip install --no-build-isolation torch-scatter (built from source against your torch)",
    "spconv-cu120": "pip install 'learn2splat[pointops]' (Python 3.11)",
    "spconv-cu126": "pip install 'learn2splat[pointops]' (Python 3.12 and newer)",
    "viser": "pip install 'learn2splat[viewer]'",
}


def report() -> str:
    """The state of this installation as text, one finding a line."""
    lines = [
        f"learn2splat {__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"{platform.platform()}, {torch.get_num_threads()} threads",
        "",
        "renderers",
    ]
    if native.library() is not None:
        lines.append(f"  cpu        yes, compiled for {native.instruction_set()}")
    else:
        lines.append(f"  cpu        no: {native.why_missing()}")
    reason = gsplat.why_unavailable()
    lines.append(f"  gsplat     {'no: ' + reason if reason else 'yes, on ' + torch.cuda.get_device_name()}")
    lines.append("  reference  yes (plain torch, for tests and float64)")
    lines += ["", "optional packages"]
    for package, remedy in OPTIONAL.items():
        try:
            lines.append(f"  {package:<14} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"  {package:<14} not installed: {remedy}")
    return "\n".join(lines)
