"""A random kill of every long command; `scripts/kills.py --kills 50` is the long version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["optimize", "meta-train", "leaderboard"])
def test_killed_commands_end_with_the_same_bits(tmp_path: Path, job: str) -> None:
    command = [sys.executable, ROOT / "scripts" / "kills.py", "--kills", "1", "--jobs", job, "--keep", tmp_path]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
