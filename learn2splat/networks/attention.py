"""Attention: of points over their nearest ones, and of all views over one another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learn2splat.networks.chunks import by_chunks

PATCH = 4
"""Cells along the side of a patch, which is one token of `ViewAttention`."""


class KnnBlock(nn.Module):
    """Attention of each Gaussian over its nearest ones (one head, no position code), then an MLP; pre-norm residual.

    Args:
        width: of the state.
        attention: of queries, keys and values.
        hidden: of the MLP.
    """

    def __init__(self, width: int, attention: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * attention, bias=False)
        self.attended = nn.Linear(attention, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, state: Tensor, nearest: Tensor) -> Tensor:
        """[N, width] from the state [N, width]; ``nearest`` [N, k] are the rows that each row attends to."""
        projected = by_chunks(lambda rows: self.query_key_value(self.norm(rows)), state)
        query, key, value = projected.chunk(3, dim=1)

        def rest(state: Tensor, query: Tensor, nearest: Tensor) -> Tensor:
            scores = torch.einsum("nc,nkc->nk", query, key[nearest]) * query.shape[1] ** -0.5
            weights = torch.softmax(scores, dim=1)
            state = state + self.attended(torch.einsum("nk,nkc->nc", weights, value[nearest]))
            return state + self.mlp(state)

        return by_chunks(rest, state, query, nearest)


class ViewAttention(nn.Module):
    """Attention of all views on one another; patches of PATCH x PATCH cells are the tokens. Untrained it does nothing.

    Without a position code: what tells where a cell is must be among its features. After ReSplat (arXiv 2510.08575),
    with strided convolutions as the way to tokens and back.

    Args:
        width: of the features.
        heads: of the attention; they divide ``width``.
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} cannot be shared by heads={heads}; give a multiple")
        self.heads = heads
        self.gather = nn.Conv2d(width, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.scatter = nn.ConvTranspose2d(width, width, PATCH, PATCH)
        nn.init.zeros_(self.scatter.weight)
        nn.init.zeros_(self.scatter.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """What is to be added to ``maps`` [V, width, h, w]; same shape."""
        views, width, height, columns = maps.shape
        patches = self.gather(padded(maps, PATCH))
        tokens = patches.permute(0, 2, 3, 1).reshape(1, -1, width)
        query, key, value = self.query_key_value(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).unbind(2)
        parts = (part.transpose(1, 2) for part in (query, key, value))
        attended = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        tokens = tokens + self.attended(attended)
        tokens = tokens + self.mlp(tokens)
        patches = tokens.view(views, *patches.shape[2:], width).permute(0, 3, 1, 2)
        return self.scatter(patches)[:, :, :height, :columns]


def padded(maps: Tensor, multiple: int) -> Tensor:
    """[V, C, h, w] -> the same with the last row and column repeated until both sides are multiples of ``multiple``."""
    rows, columns = -maps.shape[2] % multiple, -maps.shape[3] % multiple
    return nn.functional.pad(maps, (0, columns, 0, rows), mode="replicate")
