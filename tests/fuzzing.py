"""Damage to files, and every reader that has to bear it: shared by `test_fuzz` and ``scripts/fuzz.py``."""

from __future__ import annotations

import random
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from learn2splat.errors import UserError

Read = Callable[[Path], object]
ALL = 1 << 30
"""Bytes to remove: all that follow."""
NUMBERS = (b"", b"0", b"-1", b"9" * 20, b"1e999", b"NaN", b"nan", b"-", b"1e-320", b"0x10")
MARKS = (b"\n", b" ", b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"[]", b"{}", b'""', b"list", b"..")
BYTES = (b"\0", b"\0" * 8, b"\xff", b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\0" * 7 + b"\x10", b"\xc3(")
TOKENS = (*NUMBERS, *MARKS, *BYTES)
WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
EXTRA_MB = 1500
"""What a reader may allocate beside what the process holds."""


@dataclass(frozen=True)
class Edit:
    """One piece of damage.

    Args:
        at: where, as a share of the length.
        removed: bytes that vanish there; None: the word that stands there.
        inserted: what comes in their place.
    """

    at: float
    removed: int | None
    inserted: bytes


def damaged(content: bytes, edits: Sequence[Edit]) -> bytes:
    """``content`` after ``edits``."""
    result = bytearray(content)
    for edit in edits:
        start = end = min(int(edit.at * (len(result) + 1)), len(result))
        if edit.removed is None:
            while start > 0 and result[start - 1] in WORD:
                start -= 1
            while end < len(result) and result[end] in WORD:
                end += 1
        else:
            end += edit.removed
        result[start:end] = edit.inserted
    return bytes(result)


def damage() -> st.SearchStrategy[list[Edit]]:
    """A few edits, drawn by hypothesis."""
    removed = st.one_of(st.none(), st.integers(0, 9), st.just(ALL))
    inserted = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))
    return st.lists(st.builds(Edit, st.floats(0, 1), removed, inserted), min_size=1, max_size=3)


def random_damage(chance: random.Random) -> list[Edit]:
    """The same, drawn by ``chance``."""

    def edit() -> Edit:
        removed = chance.choice((None, None, 0, chance.randint(1, 9), chance.randint(1, 9), chance.randint(1, 9), ALL))
        inserted = chance.choice(TOKENS) if chance.random() < 0.6 else chance.randbytes(chance.randint(0, 8))
        return Edit(chance.random(), removed, inserted)

    return [edit() for _ in range(chance.randint(1, 3))]


@dataclass(frozen=True)
class Prey:
    """A reader and what it reads.

    Args:
        sound: files that it accepts.
        read: reads a file of this content; raises what is not in ``refusals`` when the reader is wrong.
        refusals: how it may refuse.
    """

    sound: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]

    def survives(self, content: bytes) -> bool:
        """Whether ``content`` was accepted; any other exception than a refusal, a `MemoryError` too, comes through."""
        try:
            self.read(content)
        except self.refusals:
            return False
        return True


def of_files(sound: list[bytes], path: Path, read: Read, *refusals: type[Exception]) -> Prey:
    """A reader of ``path``."""

    def check(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return Prey(sound, check, refusals or (UserError,))


def finite(holds: bool) -> None:
    assert holds, "a damaged file was accepted, and what it gave cannot be used"


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A temporary folder, in memory where the system has such: thousands of files are written."""
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def little_memory() -> Iterator[None]:
    """Within, allocations of more than `EXTRA_MB` beside what is mapped fail: no reader may believe a huge count."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (EXTRA_MB << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
