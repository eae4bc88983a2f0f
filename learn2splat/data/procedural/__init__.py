"""Procedural scenes: varied worlds, exact poses and depth, SfM-like points; seeded and without end."""

from learn2splat.data.procedural.source import ProceduralScene, ProceduralSource, make_scene
from learn2splat.data.procedural.spec import ProceduralSpec

__all__ = ["ProceduralScene", "ProceduralSource", "ProceduralSpec", "make_scene"]
