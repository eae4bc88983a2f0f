"""The compiled CPU rasteriser."""

from learn2splat.render.cpu.rasterizer import CpuRenderer

__all__ = ["CpuRenderer"]
