"""L1 and SSIM of pictures with their gradient, in one call to the compiled library."""

from __future__ import annotations

import torch
from torch import Tensor

from learn2splat.native import loader


def photometric(
    image: Tensor, target: Tensor, ssim_weight: float, want_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compare V pictures with their targets; outside autograd.

    SSIM is that of 3DGS: Gaussian window of 11 x 11 px and sigma 1.5 px, zeros outside the picture, C1 = 0.01^2,
    C2 = 0.03^2 (Wang et al. 2004).

    Args:
        image: [V, H, W, 3] float32 on the CPU, values about 0..1.
        target: likewise.
        ssim_weight: lambda in (1 - lambda) l1 + lambda (1 - ssim).
        want_grad: also compute the gradient.

    Returns:
        l1 [V] and ssim [V], float64, means over pixels and channels; and the derivative of the mean over views of
        the loss above by ``image`` [V, H, W, 3], or None.

    Raises:
        RuntimeError: there is no compiled library (ask `native.library()` first).
    """
    library = loader.library()
    if library is None:
        raise RuntimeError(f"the compiled library is missing ({loader.why_missing()}): {loader.INSTALL_HINT}")
    if image.ndim != 4 or image.shape[-1] != 3 or image.shape != target.shape:
        raise ValueError(f"expected two [V, H, W, 3] pictures, got {tuple(image.shape)} and {tuple(target.shape)}")
    for name, tensor in (("image", image), ("target", target)):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}, expected float32 on the CPU")
    image, target = image.detach().contiguous(), target.detach().contiguous()
    views, height, width, _ = image.shape
    l1, ssim = torch.zeros(views, dtype=torch.float64), torch.zeros(views, dtype=torch.float64)
    gradient = torch.empty_like(image) if want_grad else None
    failed = library.l2s_photometric(
        image.data_ptr(),
        target.data_ptr(),
        views,
        height,
        width,
        ssim_weight,
        l1.data_ptr(),
        ssim.data_ptr(),
        None if gradient is None else gradient.data_ptr(),
        loader.thread_count(image.numel()),
    )
    if failed:
        raise MemoryError(f"comparing {views} pictures of {width} x {height} px")
    return l1, ssim, gradient
