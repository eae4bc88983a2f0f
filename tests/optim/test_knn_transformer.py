"""The published network against brute force and against layers of known output."""

from __future__ import annotations

import math

import torch

from learn2splat.networks.attention import KnnBlock
from learn2splat.optim.learned.knn_transformer import KnnTransformer

N = 30


def test_the_change_has_the_length_that_the_head_predicts() -> None:
    """Layers of known output: the direction of a vector with norm 5, the magnitude 0.3, -0.3 counting as 0."""
    net = KnnTransformer(2, width=4, attention=2, hidden=4, blocks=1).double()
    for magnitude, length in ((0.3, 0.3), (-0.3, 0.0)):
        with torch.no_grad():
            net.head[-1].weight.zero_()
            net.head[-1].bias.copy_(torch.tensor([3.0, -4.0, magnitude]))
        inputs = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).split([2, 4, 2], 1)
        change, _ = net(*inputs, torch.arange(5)[:, None])
        expected = -length * torch.tensor([0.6, -0.8], dtype=torch.float64)
        torch.testing.assert_close(change.detach(), expected.expand(5, 2), rtol=1e-7, atol=0)


def test_a_block_equals_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    block = KnnBlock(width=6, attention=4, hidden=8).double()
    state = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    nearest = torch.randint(N, (N, 4), generator=generator)
    with torch.no_grad():
        found = block(state, nearest)
        rows = []
        for i in range(N):
            normed = [(x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() for x in state]
            q, _, _ = (block.query_key_value.weight @ normed[i]).split(4)
            keys = [(block.query_key_value.weight @ normed[int(j)]).split(4) for j in nearest[i]]
            weights = torch.tensor([math.exp(float(q @ k) / 2.0) for _, k, _ in keys], dtype=torch.float64)
            mean = sum(w * v for w, (_, _, v) in zip(weights / weights.sum(), keys, strict=True))
            x = state[i] + block.attended.weight @ mean + block.attended.bias
            h = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            h = block.mlp[1].weight @ h + block.mlp[1].bias
            h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
            rows.append(x + block.mlp[3].weight @ h + block.mlp[3].bias)
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-10, atol=1e-12)
