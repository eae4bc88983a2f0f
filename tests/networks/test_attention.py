"""Attention across views against brute force; padding; features that stay in place."""

from __future__ import annotations

import torch
from torch import nn

from learn2splat.networks.attention import PATCH, ViewAttention, padded
from learn2splat.networks.pyramid import CELL, Pyramid, cells, doubled, halving


def attention(width: int = 8, heads: int = 2) -> ViewAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = ViewAttention(width, heads).double()
        nn.init.normal_(block.scatter.weight)
    return block.eval()


def test_every_patch_attends_to_the_patches_of_all_views() -> None:
    block = attention()
    maps = torch.randn(2, 8, PATCH, 2 * PATCH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = block.gather(maps).permute(0, 2, 3, 1).reshape(4, 8)  # two patches in each of two views
        query, key, value = block.query_key_value(block.norm(tokens)).view(4, 3, 2, 4).unbind(1)
        heads = [torch.softmax(query[:, h] @ key[:, h].T / 2.0, dim=1) @ value[:, h] for h in range(2)]
        tokens = tokens + block.attended(torch.cat(heads, dim=1))
        tokens = tokens + block.mlp(tokens)
        expected = block.scatter(tokens.view(2, 1, 2, 8).permute(0, 3, 1, 2))
        torch.testing.assert_close(block(maps), expected, rtol=0, atol=1e-12)


def test_any_size_is_taken_and_untrained_nothing_is_added() -> None:
    maps = torch.rand(2, 8, 5, 7, dtype=torch.float64)
    assert attention()(maps).shape == maps.shape
    assert float(ViewAttention(8).double()(maps).detach().abs().max()) == 0


def test_padding_repeats_the_last_row_and_column() -> None:
    maps = torch.rand(1, 2, 5, 6)
    found = padded(maps, 4)
    assert found.shape == (1, 2, 8, 8)
    assert torch.equal(found[:, :, :5, :6], maps)
    assert torch.equal(found[:, :, 5:, :6], maps[:, :, 4:].expand(1, 2, 3, 6))
    assert torch.equal(found[:, :, :5, 6:], maps[:, :, :, 5:].expand(1, 2, 5, 2))


def test_the_pyramid_is_local() -> None:
    """A pixel changes features within its reach and nothing beyond: no statistics of the whole picture."""
    pyramid = Pyramid(4).double()
    picture = torch.rand(1, 3, 96, 96, dtype=torch.float64)
    other = picture.clone()
    other[0, :, 0, 0] += 0.5
    with torch.no_grad():
        change = (pyramid(picture) - pyramid(other)).abs().amax(dim=(0, 1))
    assert cells(picture).shape == (1, 3 * CELL**2, 24, 24)
    assert float(change[0, 0]) > 0
    assert float(change[10:].max()) == float(change[:, 10:].max()) == 0


@torch.no_grad()
def test_features_are_centred_on_their_cells() -> None:
    """With mirrored kernels a mirrored picture has mirrored features: nothing drifts to one side."""
    pyramid = Pyramid(4).double()
    picture = torch.rand(1, 3, 40, 48, dtype=torch.float64)
    found = pyramid(picture)
    for layer in pyramid.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.copy_(layer.weight.flip(2, 3))
    torch.testing.assert_close(pyramid(picture.flip(2, 3)).flip(2, 3), found, rtol=0, atol=1e-12)


def test_half_resolution_and_back_keeps_any_size() -> None:
    block = halving(2, 3)
    for height, width in ((1, 1), (3, 4), (5, 2)):
        assert doubled(block, torch.rand(1, 2, height, width)).shape == (1, 3, height, width)
