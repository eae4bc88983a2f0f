"""Faulty inputs through the real commands: exit code, message and what is left behind, as a page.

    python scripts/faults.py --page docs/faults.md
    python scripts/faults.py --only "NaN pose;truncated cameras.bin"
    python scripts/faults.py --kind here
    python scripts/faults.py --list

Every case gets a folder with a small sound capture, spoils it and runs ``l2s``. It is wrong, and the exit code of this
script 1, when the command ends with another exit code than `fault_catalogue` says, prints a traceback, says anything
but one message that holds what it has to, changes its input, or leaves something half-written.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fault_catalogue  # noqa: F401  (adds the cases)
import fault_catalogue_commands  # noqa: F401
import fault_catalogue_runs  # noqa: F401
from fault_cases import CASES, Case, sound

from learn2splat.cli import cli, run
from learn2splat.scene.ply import read_ply

ROOT = Path(__file__).resolve().parents[1]
NOT_TRIED = "not tried here: this process may not mount a file system"
MEANING = {0: "done", 2: "bad input", 4: "out of memory", 5: "cannot write"}
HEAD = """# Faults

What the commands do with input that is wrong, and with a machine that is: one message that names the file and what to
do, the exit code of the contract (0 done, 2 bad input, 4 out of memory, 5 cannot write), no traceback, nothing
half-written, and the input as it was. Made by `python scripts/faults.py --page docs/faults.md`, which fails when one
of these does not hold. A message of a command that ends well is its first warning.

| input | exit code | message |
|---|---|---|
"""


@dataclass(frozen=True)
class Seen:
    """How a case went: its exit code (None: not tried), its message, and what is wrong with that."""

    code: int | None
    message: str
    problems: list[str]


def here(command: list[str]) -> tuple[int, str]:
    """Exit code and output of ``l2s`` in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = run(lambda: cli.main(command, prog_name="l2s", standalone_mode=False))
    return code, out.getvalue()


def apart(command: list[str], limits: dict[str, int]) -> tuple[int, str]:
    """The same in a process of its own that has ``limits``."""

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "500"}
    done = subprocess.run(
        [sys.executable, "-m", "learn2splat.cli", *command], env=environment, capture_output=True, text=True,
        preexec_fn=limit,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def look(case: Case, master: Path, folder: Path) -> Seen:
    """Meet one case in ``folder``."""
    shutil.copytree(master, folder, symlinks=True)
    disk = folder / "disk"
    if case.mount is not None:
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", case.mount, "l2s", disk], capture_output=True)
        if mounted.returncode:
            return Seen(None, NOT_TRIED, [])
    try:
        case.spoil(folder)
        before = contents(folder)
        with contextlib.chdir(folder):
            alone = case.kind != "here"  # files stay open here that keep a disk mounted
            code, output = apart(case.command, case.limits or {}) if alone else here(case.command)
        text = message(output, code).replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
        return Seen(code, text, [*wrong(case, code, text, output), *left_behind(folder, before, code)])
    finally:
        if case.mount is not None:
            subprocess.run(["umount", disk], check=True)


def message(output: str, code: int) -> str:
    """What is said about the fault, in one line."""
    lines = output.splitlines()
    if code == 0:
        found = [line.strip() for line in lines if line.startswith("warning:") and "LPIPS" not in line]
        return found[0].removeprefix("warning: ") if found else ""
    return "\n".join(line for line in lines if line.startswith(("l2s:", "Error:"))).removeprefix("l2s: ")


def wrong(case: Case, code: int, text: str, output: str) -> list[str]:
    """What is not as the case says."""
    problems = [] if code == case.code else [f"exit code {code}, expected {case.code}"]
    if "Traceback" in output:
        problems.append("a traceback")
    if not re.search(case.says, text, re.DOTALL):
        problems.append(f"the message lacks {case.says!r}")
    if code and ("\n" in text or not text):
        problems.append("not one message")
    return [f"{problem}\n{output}" for problem in problems]


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def left_behind(folder: Path, before: dict[str, str], code: int) -> list[str]:
    """What changed, or appeared, that should not."""
    after = contents(folder)
    new = sorted(set(after) - set(before))
    problems = [
        f"{name} was changed" for name in before if after.get(name) != before[name] and not _is_a_run(name, code)
    ]
    problems += [f"{name} is half-written" for name in new if not _is_whole(folder / name)]
    hidden = [path for path in folder.rglob(".*") if not path.is_symlink()]
    problems += [f"{path.relative_to(folder)} is left behind" for path in hidden]
    if code == 2:
        problems += [f"{name} was written all the same" for name in new]
    return problems


def _is_a_run(name: str, code: int) -> bool:
    """Whether a command that ends well may change it."""
    return code == 0 and name.startswith("run/")


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".ply":
            read_ply(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        return path.stat().st_size > 0
    except ValueError:
        return False


def row(case: Case, seen: Seen) -> str:
    """One line of the table."""
    text = re.sub(r"\s+", " ", seen.message).replace("|", "\\|")
    text = text if len(text) <= 400 else text[:400] + " ..."
    return f"| {case.name} | {case.code if seen.code is None else seen.code} | {text or 'nothing: it is no fault'} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="write the table to this file")
    parser.add_argument("--only", help="names of cases, separated by semicolons (all)")
    parser.add_argument("--kind", choices=("here", "limit", "mount"), help="only cases that need this (all)")
    parser.add_argument("--list", action="store_true", help="print the names and exit codes of all cases")
    given = parser.parse_args()
    os.environ["COLUMNS"] = "500"
    names = given.only.split(";") if given.only else [n for n in CASES if given.kind in (None, CASES[n].kind)]
    if given.list:
        print("\n".join(f"{name}\t{CASES[name].code}" for name in names))
        return
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        sound(Path(temporary) / "master")
        for number, name in enumerate(names):
            seen = look(CASES[name], Path(temporary) / "master", Path(temporary) / str(number))
            rows.append(row(CASES[name], seen))
            failed += bool(seen.problems)
            print(f"{'WRONG' if seen.problems else 'as it should be'}: {name}: {seen.code} {seen.message}", flush=True)
            print("".join(f"    {problem}\n" for problem in seen.problems), end="", flush=True)
    if given.page:
        given.page.write_text(HEAD + "".join(rows), encoding="utf-8")
    print(f"{len(names)} cases, {failed} wrong")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
