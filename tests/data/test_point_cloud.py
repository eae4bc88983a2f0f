"""PLY files of points: positions and colours arrive, runs start from them, damage only raises."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from learn2splat.data.base import BadSceneError
from learn2splat.data.point_cloud import read_point_ply, usable_points
from learn2splat.errors import UserError
from learn2splat.scene.initialise import from_file, from_points
from learn2splat.scene.ply import write_ply

POSITIONS = np.array([[1.0, 2, 3], [-4, 5.5, 6], [7, 8, -9]])
COLORS = np.array([[255, 0, 51], [0, 102, 204], [1, 2, 3]], np.uint8)
NAMES = ("red", "green", "blue")


def write(path: Path, *, text: bool = False, order: str = "<", colors: str | None = "u1", real: str = "f4") -> Path:
    fields = [(axis, real) for axis in "xyz"] + ([] if colors is None else [(name, colors) for name in NAMES])
    table = np.zeros(3, fields)
    for i, axis in enumerate("xyz"):
        table[axis] = POSITIONS[:, i]
    for i, name in enumerate(NAMES if colors else ()):
        table[name] = COLORS[:, i] / (255.0 if colors == "f4" else 1)
    PlyData([PlyElement.describe(table, "vertex")], text=text, byte_order=order).write(str(path))
    return path


@pytest.mark.parametrize(
    "options", [{}, {"text": True}, {"order": ">"}, {"real": "f8"}, {"colors": "f4"}, {"colors": None}]
)
def test_points_and_colors_arrive(tmp_path: Path, options: dict[str, str]) -> None:
    positions, colors = read_point_ply(write(tmp_path / "a.ply", **options))  # type: ignore[arg-type]
    assert np.array_equal(positions, POSITIONS)
    assert np.array_equal(colors, COLORS if options.get("colors", "u1") else np.full((3, 3), 128))


def test_a_run_starts_from_points_or_gaussians_of_a_file(tmp_path: Path) -> None:
    points = usable_points(POSITIONS, COLORS, [])
    assert points is not None
    expected = from_points(points, 1)
    write_ply(expected, tmp_path / "gaussians.ply")
    for path in (write(tmp_path / "points.ply"), tmp_path / "gaussians.ply"):
        scene = from_file(path, 1)
        assert all(torch.allclose(a, b) for a, b in zip(scene.tensors(), expected.tensors(), strict=True))


def test_files_without_points_are_named(tmp_path: Path) -> None:
    header = (
        "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    cases = {
        "": "no PLY header",
        header.format(-1): "truncated",
        header.format(10**15): "truncated",
        header.format(2) + "1 2 3\n": "truncated|not a readable",
        header.format(1).replace("float z", "float w") + "1 2 3\n": "x, y, z",
        header.format(1).replace("vertex", "corner") + "1 2 3\n": "with vertices",
        header.format(1) + "nan 2 3\n": "no point with a finite position",
        header.format(0): "no point with a finite position",
    }
    for text, says in cases.items():
        (tmp_path / "a.ply").write_text(text)
        with pytest.raises(UserError, match=rf"a\.ply.*({says})"):
            from_file(tmp_path / "a.ply")
    with pytest.raises(UserError, match="no such file"):
        from_file(tmp_path / "none.ply")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_do_no_harm(tmp_path: Path, data: st.DataObject) -> None:
    path = write(tmp_path / "a.ply", text=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        inserted = data.draw(st.sampled_from([b"", b"\0", b"\xff" * 4, b"\n", b" ", b"9" * 12, b"list", b"nan", b"-"]))
        content[at : at + data.draw(st.integers(0, 8))] = inserted
    path.write_bytes(content)
    with suppress(BadSceneError):
        positions, colors = read_point_ply(path)
        assert positions.shape == colors.shape
