"""Faulty inputs: a few of ``scripts/faults.py``, and the page that it writes has them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FEW = (
    "truncated cameras.bin",
    "NaN pose",
    "duplicate names",
    "photo that announces 9,000 x 9,000 pixels",
    "garbage PLY",
)
FEW += ("unknown option", "unknown Hydra key", "more memory than --max-memory", "an output below a file")


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "faults.py", *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_faulty_inputs_end_as_the_contract_says() -> None:
    done = faults("--only", ";".join(FEW))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FEW)} cases, 0 wrong" in done.stdout


def test_the_page_has_every_case() -> None:
    cases = [tuple(line.split("\t")) for line in faults("--list").stdout.splitlines()]
    rows = re.findall(r"^\| (.+?) \| (\d+) \| .+ \|$", (ROOT / "docs" / "faults.md").read_text("utf-8"), re.MULTILINE)
    assert len(cases) > 80
    assert rows == cases, "write it again: python scripts/faults.py --page docs/faults.md"
