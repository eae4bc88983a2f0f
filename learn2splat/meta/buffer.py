"""The checkpoint buffer on disk: partly optimised scenes that meta-training returns to.

One folder per process, one HDF5 file per entry: written under a temporary name and renamed, so that a kill cannot tear
one; a file that is damaged all the same is dropped (its name carries the checksum of its bytes). An entry is
self-contained: photos, cameras, scene, optimizer state. Files of removed entries stay until `commit`, so that a run
that is killed goes on from its last checkpoint with the buffer of that checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from learn2splat.files import write_whole, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What one file holds.

    Args:
        step: updates made so far; entries are drawn evenly over log(1 + step).
        tensors: named tensors.
        numbers: JSON-able data.
    """

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


class Buffer:
    """A bounded set of entries in one folder.

    Args:
        folder: of this process alone.
        capacity: entries kept; the oldest of the most crowded stratum is evicted.
        strata: equal spans of log(1 + step) between 0 and ``longest`` from which entries are drawn evenly.
        longest: steps at the upper end of the last stratum.
        numbers: entries to begin with, others are deleted; None keeps all that are there.
    """

    def __init__(
        self,
        folder: Path,
        capacity: int = 20,
        strata: int = 6,
        longest: int = 5000,
        numbers: Collection[int] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: give 1 or more")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.capacity, self.strata, self.longest = folder, capacity, strata, longest
        for torn in folder.glob(".*.partial.h5"):
            torn.unlink()
        self._digests: dict[int, str] = {}
        self._steps: dict[int, int] = {}
        for path in sorted(folder.glob("entry-*.h5")):
            _, number, step, digest = path.stem.split("-")
            if numbers is None or int(number) in numbers:
                self._steps[int(number)], self._digests[int(number)] = int(step), digest
            else:
                path.unlink()
        self._next = max(self._steps, default=-1) + 1
        self._garbage: list[Path] = []

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> dict[int, int]:
        """Entry number -> its step."""
        return dict(self._steps)

    def stratum(self, step: int) -> int:
        """Which stratum a step belongs to."""
        share = math.log1p(step) / math.log1p(self.longest)
        return min(self.strata - 1, int(share * self.strata))

    def insert(self, entry: Entry) -> int:
        """Add an entry, evict one when there are too many; the number of the new one."""
        number = self._next
        self._next += 1
        content = _to_bytes(entry)
        self._steps[number], self._digests[number] = entry.step, _digest(content)
        write_whole(self._path(number), lambda path: path.write_bytes(content))
        while len(self._steps) > self.capacity:
            self.remove(self._oldest_of_most_crowded())
        return number

    def draw(self, generator: torch.Generator) -> tuple[int, Entry] | None:
        """A stratum at random among those that hold something, then an entry of it; None when all is empty.

        Damaged entries are dropped with a warning.
        """
        while self._steps:
            strata: dict[int, list[int]] = {}
            for number, step in sorted(self._steps.items()):
                strata.setdefault(self.stratum(step), []).append(number)
            chosen = strata[sorted(strata)[_integer(len(strata), generator)]]
            number = chosen[_integer(len(chosen), generator)]
            try:
                return number, _read(self._path(number), self._digests[number])
            except (OSError, ValueError) as error:
                log.warning("%s is damaged and was dropped: %s", self._path(number), error)
                self.remove(number)
        return None

    def remove(self, number: int) -> None:
        """Forget an entry; its file goes with the next `commit`."""
        self._garbage.append(self._path(number))
        del self._steps[number], self._digests[number]

    def commit(self) -> None:
        """Delete the files of all entries that were removed."""
        for path in self._garbage:
            path.unlink(missing_ok=True)
        self._garbage.clear()

    def _oldest_of_most_crowded(self) -> int:
        strata: dict[int, list[int]] = {}
        for number, step in self._steps.items():
            strata.setdefault(self.stratum(step), []).append(number)
        crowded = max(strata, key=lambda stratum: (len(strata[stratum]), -min(strata[stratum])))
        return min(strata[crowded])

    def _path(self, number: int) -> Path:
        return self.folder / f"entry-{number:08d}-{self._steps[number]}-{self._digests[number]}.h5"


def _integer(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))


def _to_bytes(entry: Entry) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, tensor in entry.tensors.items():
            file.create_dataset(name, data=tensor.detach().cpu().contiguous().numpy())
        file.attrs["numbers"], file.attrs["step"] = np.bytes_(json.dumps(entry.numbers)), entry.step
    return stream.getvalue()


def _read(path: Path, digest: str) -> Entry:
    """The entry of a file; ``ValueError`` unless its bytes are those that were written."""
    content = path.read_bytes()
    if _digest(content) != digest:
        raise ValueError("its checksum differs")
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            _require_kind(name, item.dtype, "biuf")
            if item.nbytes > len(content):
                raise ValueError(f"{name} announces {item.nbytes} bytes, and the file holds {len(content)}")
            tensors[name] = torch.from_numpy(np.array(item))

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(visit)
            for name, kind in (("step", "i"), ("numbers", "S")):
                _require_kind(name, file.attrs.get_id(name).dtype, kind)
            return Entry(int(file.attrs["step"]), tensors, json.loads(file.attrs["numbers"]))
    except Exception as error:  # h5py raises anything on what is damaged
        raise ValueError(str(error) or type(error).__name__) from error


def _require_kind(name: str, dtype: np.dtype[Any], kinds: str) -> None:
    """Refuse above all what lies on HDF5's global heap, as texts of any length do: damaged, it makes HDF5 hang."""
    if dtype.kind not in kinds:
        raise ValueError(f"{name} is of type {dtype}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
