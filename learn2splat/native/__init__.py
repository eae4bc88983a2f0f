"""The compiled library: a fast CPU rasteriser and the photometric loss. Nothing is loaded at import."""

from learn2splat.native.loader import INSTALL_HINT, instruction_set, library, why_missing

__all__ = ["INSTALL_HINT", "instruction_set", "library", "why_missing"]
