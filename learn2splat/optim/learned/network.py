"""A small point transformer over Gaussians: attention over neighbours, pooling over clusters, pooling over all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointTransformer(nn.Module):
    """Features per Gaussian in, numbers per Gaussian out; permutation-equivariant, and rotation-invariant in geometry.

    Args:
        inputs: features per Gaussian.
        outputs: numbers per Gaussian; zero before training.
        width: of the hidden layers.
        attention: width of queries, keys and values: gathering them is what the network's time goes into.
        heads: attention heads.
        pooled: width of the cluster and scene tokens.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 40, attention: int = 12, heads: int = 2, pooled: int = 12
    ) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(inputs, width)
        self.query_key_value = nn.Linear(width, 3 * attention, bias=False)
        self.geometry = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, heads))
        self.attended = nn.Linear(attention, width)
        self.pool = nn.Linear(width, pooled)
        self.unpool = nn.Linear(2 * pooled, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, neighbours: Tensor, geometry: Tensor, clusters: Tensor) -> Tensor:
        """[N, outputs].

        Args:
            features: [N, inputs].
            neighbours: [N, k] rows.
            geometry: [N, k, 2] distance to the neighbour and its size, both in the Gaussian's own units, logarithms.
            clusters: [N] cluster of each Gaussian, 0..C-1.
        """
        hidden = nn.functional.silu(self.embed(features))
        hidden = hidden + self._attend(hidden, neighbours.long(), geometry)
        hidden = hidden + self._pool(hidden, clusters)
        hidden = hidden + nn.functional.silu(self.mix(hidden))
        return self.head(hidden)

    def _attend(self, hidden: Tensor, neighbours: Tensor, geometry: Tensor) -> Tensor:
        count = len(hidden)
        query, key, value = (
            self.query_key_value(hidden).view(count, 3, self.heads, self.attended.in_features // self.heads).unbind(1)
        )
        scores = torch.einsum("nhc,nkhc->nkh", query, key[neighbours]) * query.shape[-1] ** -0.5
        weights = torch.softmax(scores + self.geometry(geometry), dim=1)
        attended = torch.einsum("nkh,nkhc->nhc", weights, value[neighbours]).flatten(1)
        return self.attended(attended)

    def _pool(self, hidden: Tensor, clusters: Tensor) -> Tensor:
        pooled = self.pool(hidden)
        number = int(clusters.max()) + 1 if len(clusters) else 1
        sums = pooled.new_zeros(number, pooled.shape[1]).index_add(0, clusters, pooled)
        sizes = pooled.new_zeros(number).index_add(0, clusters, torch.ones_like(pooled[:, 0]))
        of_cluster = (sums / sizes.clamp_min(1)[:, None])[clusters]
        of_scene = sums.sum(dim=0) / max(1, len(hidden))
        return self.unpool(torch.cat([of_cluster, of_scene.expand_as(of_cluster)], dim=1))
