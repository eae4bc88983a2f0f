"""The network of Learn2Splat (arXiv 2605.15760): a point transformer over nearest neighbours and two learned scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learn2splat.networks.attention import KnnBlock
from learn2splat.networks.chunks import by_chunks

TINY = 1e-8
"""Magnitude of the untrained network's updates, and what keeps the length of a direction from zero: a direction of zero
length then has the derivative TINY / TINY = 1."""


class KnnTransformer(nn.Module):
    """Parameters, latent state and normalised gradients of each Gaussian in; change and new latent state out.

    The new state is the transformer's output. For decoding alone it is multiplied by a scale >= 0 that an MLP predicts
    from the input (layer norms wipe out magnitude). The head decodes a direction of length 1 and a magnitude >= 0.

    Args:
        numbers: parameters per Gaussian.
        width: of the latent state.
        attention, hidden: see `KnnBlock`.
        blocks: how many.
    """

    def __init__(self, numbers: int, width: int, attention: int, hidden: int, blocks: int) -> None:
        super().__init__()
        inputs = numbers + width + numbers
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(KnnBlock(width, attention, hidden) for _ in range(blocks))
        scale, last = nn.Linear(inputs // 2, 1), nn.Linear(width, numbers + 1)
        self.state_scale = nn.Sequential(nn.Linear(inputs, inputs // 2), nn.ReLU(), scale, nn.ReLU())
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), last)
        nn.init.ones_(scale.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[-1:], TINY)

    def forward(self, parameters: Tensor, latent: Tensor, normalised: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """Change of the parameters [N, numbers] and new latent state [N, width].

        Args:
            parameters: [N, numbers] raw.
            latent: [N, width]; the change depends on it through the transformer, not through the scale's derivative.
            normalised: [N, numbers] gradients of order 1.
            nearest: [N, k] rows that each Gaussian attends to.
        """
        state = by_chunks(lambda *parts: self.embed(torch.cat(parts, dim=1)), parameters, latent, normalised)
        for block in self.blocks:
            state = block(state, nearest)
        parts = parameters, latent.detach(), normalised
        scale = by_chunks(lambda *parts: self.state_scale(torch.cat(parts, dim=1)), *parts)
        return by_chunks(self._decode, state, scale), state

    def scale_magnitude(self, factor: float) -> None:
        """Multiply the magnitude of all changes by ``factor`` > 0."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight[-1] *= factor
            last.bias[-1] *= factor

    def _decode(self, state: Tensor, scale: Tensor) -> Tensor:
        outputs = self.head(state * scale)
        direction, magnitude = outputs[:, :-1], outputs[:, -1:].relu()
        return -magnitude * direction / (direction.norm(dim=1, keepdim=True) + TINY)
