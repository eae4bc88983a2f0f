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

_PART = r"[^\s/\\'\",:;=(){}\[\]]+"
_LOCAL_PATH = re.compile(
    rf"(?:file://|(?<![\w./~>-])~?)(?:/{_PART})*/({_PART})/?"
    rf"|(?<![\w\\])(?:[A-Za-z]:|\\)(?:[/\\]{_PART})*[/\\]({_PART})[/\\]?"
)
_PATH_AS_A_WHOLE = re.compile(
    r"([\s'\"]*(?:[\w.+-]+[=:])*?)(?:file://|(?!//)(?:~[^/]*|[A-Za-z]:)?)[/\\](.*)", re.DOTALL
)


class CannotWriteError(OSError):
    """A file or folder that cannot be written; the message names it."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary sibling of ``path``, then rename it over ``path``.

    Args:
        path: the file or folder to make; its parent is created.
        write: receives the temporary path, which keeps the suffix of ``path``.

    Raises:
        CannotWriteError: the disk is full or not writable; nothing is left behind and an older ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    replaced = path.with_name(f".{path.stem}.replaced{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        try:
            write(temporary)
            if path.is_dir():
                _remove(replaced)
                path.rename(replaced)
            temporary.rename(path)
        finally:
            _remove(temporary)
        _remove(replaced)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system within become a `CannotWriteError`, which names ``path`` where they name no file.

    Raises:
        FileExistsError: as it is: another name is to be given.
    """
    try:
        yield
    except (CannotWriteError, FileExistsError):
        raise
    except OSError as error:
        if error.errno is None:
            raise CannotWriteError(str(error)) from error
        raise CannotWriteError(error.errno, error.strerror, error.filename or str(path)) from error


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

    Where such a path ends is only known when no part of it holds a space; of the home folder it is. Texts that are one
    path are for `shareable_paths`.

    Args:
        value: a text, or mappings and sequences of such and of other data, as JSON holds them.
    """
    home = (os.path.expanduser("~").rstrip("/") or "~") + "/"  # nobody has to have one, and it may be the root

    def cut(text: str) -> str:
        return _LOCAL_PATH.sub(lambda found: found[found.lastindex or 0], text.replace(home, "~/"))

    return _mapped(value, cut)


def shareable_paths(value: Any) -> Any:
    """Likewise of settings and arguments, ``PATH``, ``KEY=PATH`` or ``[PATH,PATH]``, where a path may hold spaces."""

    def cut(text: str) -> str:
        if found := _PATH_AS_A_WHOLE.fullmatch(text):
            if "+refine:" in text:  # two paths, which look like one
                return "+refine:".join(cut(part) for part in text.split("+refine:"))
            return found[1] + re.split(r"[/\\]", found[2].rstrip("/\\"))[-1]
        if re.search(r"[,\[\]]", text):
            return re.sub(r"[^,\[\]]+", lambda piece: cut(piece[0]), text)
        return str(shareable(text))

    return _mapped(value, cut)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with ``change`` made to its texts."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
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
