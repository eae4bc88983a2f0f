"""``.splat`` and ``.spz``: what a decoder written here finds in them is the scene, up to its rounding."""

from __future__ import annotations

import gzip
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from learn2splat.errors import UserError
from learn2splat.scene.compact import splat_bytes, spz_bytes, write_scene
from learn2splat.scene.gaussians import GaussianScene, opacities, scales
from learn2splat.scene.harmonics import sh_basis
from learn2splat.scene.ply import read_ply

COUNT = 50


def some_scene(degree: int = 3) -> GaussianScene:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sh = 0.2 * normal(COUNT, (degree + 1) ** 2, 3)
    return GaussianScene(3 * normal(COUNT, 3), normal(COUNT, 3) - 3, normal(COUNT, 4), normal(COUNT), sh)


def same_rotation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest 1 - |cos(half the angle)| between quaternions [N, 4]."""
    a, b = (torch.nn.functional.normalize(q, dim=1) for q in (a, b))
    return float((1 - (a * b).sum(dim=1).abs()).max())


def test_splat_holds_the_scene() -> None:
    scene = some_scene()
    rows = np.frombuffer(
        splat_bytes(scene), np.dtype([("xyz", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    )
    order = torch.argsort(scales(scene).prod(dim=1) * opacities(scene), descending=True)
    expected = scene.take(order)
    assert np.array_equal(rows["xyz"], expected.means.numpy())
    assert np.allclose(rows["s"], expected.log_scales.exp().numpy(), rtol=1e-6)
    color = (0.5 + 0.28209479177387814 * expected.sh[:, 0]).clamp(0, 1)
    assert np.abs(rows["c"][:, :3] / 255 - color.numpy()).max() <= 0.51 / 255
    assert np.abs(rows["c"][:, 3] / 255 - torch.sigmoid(expected.logit_opacities).numpy()).max() <= 0.51 / 255
    assert same_rotation((torch.from_numpy(rows["q"].copy()).float() - 128) / 128, expected.quats) < 2e-4


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_spz_holds_the_scene_with_its_axes_turned(degree: int) -> None:
    scene, turn = some_scene(degree), torch.tensor([1.0, -1, -1])
    content = gzip.decompress(spz_bytes(scene))
    assert struct.unpack("<IIIBBBB", content[:16]) == (0x5053474E, 2, COUNT, degree, 12, 0, 0)
    sizes = [9, 1, 3, 3, 3, 3 * ((degree + 1) ** 2 - 1)]
    ends = np.cumsum([16, *(COUNT * size for size in sizes)])
    assert len(content) == ends[-1]
    raw = [np.frombuffer(content[a:b], np.uint8).reshape(COUNT, -1).astype(np.int64) for a, b in pairwise(ends)]
    places = raw[0].reshape(COUNT, 3, 3) @ np.array([1, 256, 65536])
    places = np.where(places >= 2**23, places - 2**24, places) / 4096
    assert np.abs(places - (scene.means * turn).numpy()).max() <= 0.51 / 4096
    assert np.abs(raw[1][:, 0] / 255 - torch.sigmoid(scene.logit_opacities).numpy()).max() <= 0.51 / 255
    assert np.abs((raw[2] / 255 - 0.5) / 0.15 - scene.sh[:, 0].numpy()).max() <= 0.51 / 255 / 0.15
    assert np.abs(raw[3] / 16 - 10 - scene.log_scales.numpy()).max() <= 0.51 / 16
    xyz = torch.from_numpy(raw[4] / 127.5 - 1).float()
    w = (1 - xyz.square().sum(dim=1)).clamp(min=0).sqrt()
    turned_back = torch.cat([w[:, None], xyz * turn], dim=1)
    # where w is small, all of the rounding of x, y and z goes into it
    assert same_rotation(turned_back, scene.quats) < 3**0.5 * 0.51 / 127.5
    # seen from the turned direction, the turned harmonics have the colour of the original ones
    turned = torch.from_numpy((raw[5].reshape(COUNT, -1, 3) - 128) / 128).float()
    directions = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    seen = torch.einsum("dk,nkc->ndc", sh_basis(turn * directions, degree)[:, 1:], turned)
    expected = torch.einsum("dk,nkc->ndc", sh_basis(directions, degree)[:, 1:], scene.sh[:, 1:])
    rounding = 8.6 / 128 * sh_basis(directions, degree)[:, 1:].abs().sum(dim=1)
    assert ((seen - expected).abs().amax(dim=(0, 2)) <= rounding + 1e-6).all()


def test_the_suffix_names_the_format(tmp_path: Path) -> None:
    scene = some_scene()
    for suffix, content in ((".splat", splat_bytes(scene)), (".spz", spz_bytes(scene))):
        write_scene(scene, tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == content
    write_scene(scene, tmp_path / "a.ply")
    assert torch.equal(read_ply(tmp_path / "a.ply").means, scene.means)
    with pytest.raises(UserError, match=r"\.ply, \.splat or \.spz"):
        write_scene(scene, tmp_path / "a.obj")
    with pytest.raises(UserError, match="up to 2048 world units"):
        spz_bytes(scene.map(lambda tensor: tensor * 1e4))
