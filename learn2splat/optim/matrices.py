"""The matrix that an optimizer of matrices sees in a parameter of Gaussians."""

from __future__ import annotations

from torch import Tensor


def natural_matrix(parameter: Tensor) -> Tensor:
    """[N, w] -> [N, w], [N] -> [N, 1], [N, K, 3] -> [N K, 3].

    Columns are axes that belong together: x, y, z; the axes of a Gaussian; the parts of a quaternion; red, green, blue.
    Rows are Gaussians, or harmonics of Gaussians: there are many, and which is first means nothing.
    """
    return parameter.reshape(-1, parameter.shape[-1] if parameter.ndim > 1 else 1)
