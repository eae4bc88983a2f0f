"""Faulty inputs: those of ``scripts/faults.py`` that need no limited process, and the page that it writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "faults.md"


def faults(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "faults.py", *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def rows(page: Path) -> dict[str, tuple[str, str]]:
    """Name -> (exit code, message without its numbers: some are of the machine)."""
    found = re.findall(r"^\| (.+?) \| (\d+) \| (.+) \|$", page.read_text("utf-8"), re.MULTILINE)
    return {name: (code, re.sub(r"\d+", "#", message)) for name, code, message in found}


@pytest.mark.slow
def test_faulty_inputs_end_as_the_contract_and_the_page_say(tmp_path: Path) -> None:
    done = faults("--kind", "here", "--page", tmp_path / "faults.md")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    seen, told = rows(tmp_path / "faults.md"), rows(PAGE)
    assert len(seen) > 90
    changed = {name: (row, told.get(name)) for name, row in seen.items() if row != told.get(name)}
    assert not changed, "write the page again: python scripts/faults.py --page docs/faults.md"


@pytest.mark.slow
def test_disks_that_are_full_or_read_only_end_as_the_contract_says() -> None:
    done = faults("--kind", "mount")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_every_case() -> None:
    cases = [tuple(line.split("\t")) for line in faults("--list").stdout.splitlines()]
    assert len(cases) > 80
    listed = [(name, code) for name, (code, _) in rows(PAGE).items()]
    assert listed == cases, "write it again: python scripts/faults.py --page docs/faults.md"
