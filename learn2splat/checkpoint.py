"""Checkpoints: a folder with ``manifest.json`` and ``tensors.safetensors``; strict, and never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from learn2splat import __version__
from learn2splat.errors import UserError
from learn2splat.files import recover, write_whole

SCHEMA = 1
REMEDY = "copy the folder again, or delete it and start anew"
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
DAMAGE = (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError)
"""What damaged files make their readers raise."""


class BadCheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which file, what is wrong and what to do."""


def save(folder: Path, kind: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: where to; replaced when it exists.
        kind: what it is a checkpoint of.
        tensors: named tensors.
        config: JSON-able data from which the rest is rebuilt.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        temporary.mkdir()
        # copies: several names may share one tensor, which safetensors refuses
        try:
            save_file({name: tensor.clone() for name, tensor in stored.items()}, str(temporary / TENSORS))
        except SafetensorError as error:
            raise OSError(f"cannot write {folder}: {error}") from error
        manifest = {
            "kind": kind,
            "schema": SCHEMA,
            "version": __version__,
            "config": config,
            "tensors": {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in stored.items()},
            "sha256": _digest(temporary / TENSORS),
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    write_whole(folder, write)


def load(folder: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: (tensors, config).

    Raises:
        BadCheckpointError: missing, of another kind or a newer schema, damaged, or not what its manifest says.
    """
    recover(folder)
    with _reading(folder):
        manifest = _manifest(folder)
        found = (manifest["kind"], manifest["schema"])
        if found[0] != kind:
            raise BadCheckpointError(f"{folder}: a checkpoint of {found[0]!r}, expected {kind!r}")
        if found[1] != SCHEMA:
            raise BadCheckpointError(f"{folder}: schema {found[1]}, this version reads {SCHEMA}; update learn2splat")
        if _digest(folder / TENSORS) != manifest["sha256"]:
            raise BadCheckpointError(f"{folder / TENSORS}: damaged (checksum differs); {REMEDY}")
        tensors = load_file(str(folder / TENSORS))
        if {name: [list(t.shape), str(t.dtype)] for name, t in tensors.items()} != manifest["tensors"]:
            raise BadCheckpointError(f"{folder}: tensors are not those of {MANIFEST}; {REMEDY}")
        return tensors, manifest["config"]


def kind_of(folder: Path) -> str:
    """What ``folder`` is a checkpoint of.

    Raises:
        BadCheckpointError: it is none.
    """
    with _reading(folder):
        return str(_manifest(folder)["kind"])


def digest_of(folder: Path) -> str:
    """Checksum of the tensors in ``folder``, as its manifest states it.

    Raises:
        BadCheckpointError: it is no checkpoint.
    """
    with _reading(folder):
        return str(_manifest(folder)["sha256"])


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Whatever a damaged file makes its readers raise within becomes a `BadCheckpointError`."""
    try:
        yield
    except BadCheckpointError:
        raise
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadCheckpointError(f"{folder}: not a readable checkpoint ({reason}); {REMEDY}") from error


def _manifest(folder: Path) -> Any:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
