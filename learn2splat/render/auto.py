"""Choice of a rasteriser when the user did not name one."""

from __future__ import annotations

import warnings

import torch

from learn2splat import native
from learn2splat.render import gsplat
from learn2splat.render.base import BackendMissingError, Renderer, RenderSettings
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer


def auto_renderer(device: str = "auto", settings: RenderSettings = RenderSettings()) -> Renderer:
    """The fastest backend for ``device``.

    Args:
        device: "cpu", "cuda" or "auto" (CUDA when it and gsplat are there).
        settings: constants of the rasterisation.

    Raises:
        BackendMissingError: CUDA was asked for and cannot be used.
    """
    if device == "cuda" or (device == "auto" and torch.cuda.is_available() and not gsplat.why_unavailable()):
        return gsplat.GsplatRenderer(settings)
    if device not in ("auto", "cpu"):
        raise BackendMissingError(f"device {device!r} is not supported; use auto, cpu or cuda")
    if native.library() is not None:
        return CpuRenderer(settings)
    warnings.warn(
        f"the compiled CPU rasteriser is missing ({native.why_missing()}): rendering in plain torch, about 100x slower",
        stacklevel=2,
    )
    return ReferenceRenderer(settings)
