"""A point transformer over Gaussians: attention over neighbours, pooling over clusters, pooling over all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learn2splat.networks.chunks import by_chunks
from learn2splat.optim.base import CLUSTERS
from learn2splat.optim.learned.segments import segment_mean, segment_sum


class PointBlock(nn.Module):
    """Attention, pooling and a hidden layer; each is added to its input.

    Args:
        width: of the hidden layers.
        attention: width of queries, keys and values: gathering them is what the network's time goes into.
        heads: attention heads; they divide ``attention``.
        pooled: width of the cluster and scene tokens.
    """

    def __init__(self, width: int, attention: int, heads: int, pooled: int) -> None:
        super().__init__()
        if attention % heads:
            raise ValueError(f"attention={attention} cannot be shared by heads={heads}; give a multiple")
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * attention, bias=False)
        self.geometry = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, heads))
        self.attended = nn.Linear(attention, width)
        self.pool = nn.Linear(width, pooled)
        self.unpool = nn.Linear(2 * pooled, width)
        self.mix = nn.Linear(width, width)

    def forward(self, hidden: Tensor, neighbours: Tensor, geometry: Tensor, clusters: Tensor) -> Tensor:
        """[N, width]; arguments as of `PointTransformer`."""
        hidden = hidden + self._attend(hidden, neighbours, geometry)
        hidden = hidden + self._pool(hidden, clusters)
        return hidden + nn.functional.silu(self.mix(hidden))

    def _attend(self, hidden: Tensor, neighbours: Tensor, geometry: Tensor) -> Tensor:
        per_head = self.attended.in_features // self.heads
        query, key, value = self.query_key_value(hidden).view(len(hidden), 3, self.heads, per_head).unbind(1)

        def attend(query: Tensor, neighbours: Tensor, geometry: Tensor) -> Tensor:
            scores = torch.einsum("nhc,nkhc->nkh", query, key[neighbours]) * per_head**-0.5
            weights = torch.softmax(scores + self.geometry(geometry), dim=1)
            return torch.einsum("nkh,nkhc->nhc", weights, value[neighbours]).flatten(1)

        return self.attended(by_chunks(attend, query, neighbours, geometry))

    def _pool(self, hidden: Tensor, clusters: Tensor) -> Tensor:
        pooled = self.pool(hidden)
        sums = segment_sum(pooled, clusters, CLUSTERS)
        of_cluster = segment_mean(sums, clusters)[clusters]
        of_scene = sums.sum(dim=0) / max(1, len(hidden))
        return self.unpool(torch.cat([of_cluster, of_scene.expand_as(of_cluster)], dim=1))


class PointTransformer(nn.Module):
    """Features per Gaussian in, numbers per Gaussian out; permutation-equivariant, and rotation-invariant in geometry.

    Args:
        inputs: features per Gaussian.
        outputs: numbers per Gaussian; zero before training.
        width, attention, heads, pooled: of each `PointBlock`.
        blocks: how many.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 40,
        attention: int = 12,
        heads: int = 2,
        pooled: int = 12,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(PointBlock(width, attention, heads, pooled) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, neighbours: Tensor, geometry: Tensor, clusters: Tensor) -> Tensor:
        """[N, outputs].

        Args:
            features: [N, inputs].
            neighbours: [N, k] rows.
            geometry: [N, k, 2] distance to the neighbour and its size, both in the Gaussian's own units, logarithms.
            clusters: [N] cluster of each Gaussian, 0..CLUSTERS-1.
        """
        hidden, rows = nn.functional.silu(self.embed(features)), neighbours.long()
        for block in self.blocks:
            hidden = block(hidden, rows, geometry, clusters)
        return self.head(hidden)
