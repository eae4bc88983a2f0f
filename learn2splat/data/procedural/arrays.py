"""Names for what the builders pass around."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Rng: TypeAlias = np.random.Generator
Values: TypeAlias = Any
"""A number, a tuple, a list or an array of them; numpy's ``ArrayLike`` holds text too, so nothing can be computed."""
