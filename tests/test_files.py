"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learn2splat.files import CannotWriteError, recover, shareable, shareable_paths, write_text, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match=r"disk full: .*a\.txt"):
        write_whole(tmp_path / "a.txt", fail)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_cannot_be_written_is_told_from_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match=r"Not a directory: .*file") as caught:
        write_text(tmp_path / "file" / "below" / "a.txt", "new")
    assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(IsADirectoryError):
        tmp_path.read_text()


def test_folders_are_replaced_as_a_whole(tmp_path: Path) -> None:
    def content(names: list[str]) -> None:
        def write(temporary: Path) -> None:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(name)

        write_whole(tmp_path / "folder", write)

    content(["one", "two"])
    content(["three"])
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["three"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_replacement_cut_between_its_renames_is_recovered(tmp_path: Path) -> None:
    (tmp_path / ".folder.replaced").mkdir()
    (tmp_path / ".folder.replaced" / "one").write_text("one")
    recover(tmp_path / "folder")
    assert (tmp_path / "folder" / "one").read_text() == "one"
    recover(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = tmp_path / f".a.{process.pid}.partial.txt", tmp_path / f".a.{os.getppid()}.partial.txt"
    other = tmp_path / f".b.{process.pid}.partial.txt"
    for path in (dead, alive, other):
        path.write_text("half")
    write_text(tmp_path / "a.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.txt", alive.name, other.name])


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/me/garden", "garden"),
        ("~/captures/garden/", "garden"),
        ("ply:/home/me/a.ply", "ply:a.ply"),
        ("scenes=[/home/me/a,/home/me/b]", "scenes=[a,b]"),
        ("scene: /home/me/a\nlpips: null", "scene: a\nlpips: null"),
        ("a photo is missing in file:///home/me/garden.", "a photo is missing in garden."),
        (r"C:\Users\me\a.ply: truncated", "a.ply: truncated"),
        (r"not in \\server\share\me, C:/Users/me/a", "not in me, a"),
        (f"{Path.home()}/a/b is empty", "b is empty"),
        ("../scenes/a, outputs/b, 3/4, 3 / 4, http://www.w3.org/2000/svg", None),
    ],
)
def test_absolute_paths_are_cut_down_and_nothing_else(text: str, shared: str | None) -> None:
    assert shareable({"a": [text], "b": 3}) == {"a": [shared or text], "b": 3}


def test_a_home_with_a_space_is_cut_in_running_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/Jane Doe")
    assert shareable("/home/Jane Doe/captures/fox is empty: look") == "fox is empty: look"
    monkeypatch.setenv("HOME", "/")
    assert shareable("/root/fox, http://www.w3.org/2000/svg") == "fox, http://www.w3.org/2000/svg"


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/Jane Doe/captures/fox", "fox"),
        ("/home/Jane Doe/my captures/", "my captures"),
        ("~jane/captures/fox", "fox"),
        ("file:///home/Jane Doe/fox", "fox"),
        (r"C:\Users\Jane Doe\fox", "fox"),
        (r"\\server\Jane Doe\fox", "fox"),
        ("--scene=/home/Jane Doe/fox", "--scene=fox"),
        ("ply:/home/Jane Doe/a b.ply", "ply:a b.ply"),
        ("predict:/home/Jane Doe/a b/net+refine:/home/Jane Doe/a b/up", "predict:net+refine:up"),
        ("predict+refine:/home/Jane Doe/up", "predict+refine:up"),
        ("ply:/home/Jane Doe/predict+refine/a.ply", "ply:a.ply"),
        ("adam,mine=/home/Jane Doe/my optimizer", "adam,mine=my optimizer"),
        ("data.captures=[/home/Jane Doe/a,'/home/Jane Doe/b']", "data.captures=[a,'b']"),
        ("../Jane Doe/fox", None),
        ("http://www.w3.org/2000/svg", None),
        ("procedural:seed=3,views=4", None),
        ("train.lr=1e-3", None),
        ("0/8", None),
    ],
)
def test_paths_as_a_whole_may_hold_spaces(text: str, shared: str | None) -> None:
    once = shareable_paths({"a": [text], "b": None})
    assert once == {"a": [shared or text], "b": None}
    assert shareable(once) == once
