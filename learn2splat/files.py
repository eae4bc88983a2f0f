"""Files that are whole or absent: everything is written under a temporary name and renamed."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = r"[^\s/'\",:;=(){}\[\]]+"
_LOCAL_PATH = re.compile(rf"(?<![\w./~>-])~?(?:/{_PART})*/({_PART})/?")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary sibling of ``path``, then rename it over ``path``.

    Args:
        path: the file or folder to make; its parent is created.
        write: receives the temporary path, which keeps the suffix of ``path``.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind and an older ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    replaced = path.with_name(f".{path.stem}.replaced{path.suffix}")
    _remove_stale(path)
    try:
        with naming(path):
            write(temporary)
        if path.is_dir():
            _remove(replaced)
            path.rename(replaced)
        temporary.rename(path)
    finally:
        _remove(temporary)
    _remove(replaced)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that name no file, as of a full disk, then name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def recover(path: Path) -> None:
    """Put back a folder whose replacement by `write_whole` was interrupted between its two renames."""
    replaced = path.with_name(f".{path.stem}.replaced{path.suffix}")
    if replaced.exists() and not path.exists():
        replaced.rename(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path``, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def shareable(value: Any) -> Any:
    """``value`` with every absolute path in its texts cut down to its last part: nobody else has that folder.

    Args:
        value: a text, or mappings and sequences of such and of other data, as JSON holds them.
    """
    if isinstance(value, str):
        return _LOCAL_PATH.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {key: shareable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(item) for item in value]
    return value


def _remove_stale(path: Path) -> None:
    """Remove what killed processes left under temporary names of ``path``."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"):
        pid = left.name.removeprefix(f".{path.stem}.").partition(".")[0]
        if pid == str(os.getpid()) or (pid.isdecimal() and not _is_running(int(pid))):
            _remove(left)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
