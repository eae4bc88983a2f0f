"""Checkpoints: what a manifest can hold that is none is refused by name, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learn2splat import checkpoint
from learn2splat.eval.methods import method
from learn2splat.run_folder import RunFolder, RunFolderError

DAMAGE = {
    "garbage": b"\x9f\xe1\x00",
    "nested": b"[" * 100_000,
    "a number of 5,000 digits": b"1" * 5_000,
    "a list": b"[]",
    "an empty object": b"{}",
}
READERS: dict[str, Callable[[Path], object]] = {
    "load": lambda folder: checkpoint.load(folder, "optimizer"),
    "kind_of": checkpoint.kind_of,
    "digest_of": checkpoint.digest_of,
    "method": lambda folder: method(str(folder)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
def test_damaged_manifests_are_refused_by_name(tmp_path: Path, reader: str, damage: str) -> None:
    checkpoint.save(tmp_path / "a", "optimizer", {"a": torch.zeros(2)}, {})
    (tmp_path / "a" / checkpoint.MANIFEST).write_bytes(DAMAGE[damage])
    with pytest.raises(checkpoint.BadCheckpointError, match=r"a: not a readable checkpoint.*copy the folder again"):
        READERS[reader](tmp_path / "a")


def test_the_digest_is_that_of_the_tensors(tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", 1.0), ("c", 0.0)):
        checkpoint.save(tmp_path / name, "optimizer", {"a": torch.full((2,), value)}, {"name": name})
    a, b, c = (checkpoint.digest_of(tmp_path / name) for name in "abc")
    assert a == c != b


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_of_a_run_are_refused_by_name_or_count_for_nothing(tmp_path: Path, damage: str) -> None:
    (tmp_path / "config.yaml").write_bytes(DAMAGE[damage])
    (tmp_path / "summary.json").write_bytes(DAMAGE[damage])
    with pytest.raises(RunFolderError, match=r"config\.yaml.*start a new run"):
        RunFolder(tmp_path).read_config()
    assert not RunFolder(tmp_path).is_finished()
