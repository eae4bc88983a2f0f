"""A random kill of every long command; `scripts/kills.py --kills 50` is the long version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEEDS = {
    "optimize": (1, "SIGTERM"),
    "densify": (3, "SIGKILL"),
    "meta-train": (4, "SIGINT"),
    "leaderboard": (0, "SIGKILL"),
}
"""What the first kill is at that seed: all three signals occur."""


@pytest.mark.slow
@pytest.mark.parametrize("job", SEEDS)
def test_killed_commands_end_with_the_same_bits(tmp_path: Path, job: str) -> None:
    seed, name = SEEDS[job]
    command = [sys.executable, ROOT / "scripts" / "kills.py", "--kills", "1", "--jobs", job]
    command += ["--seed", str(seed), "--keep", tmp_path]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"  {name} with a save: " in done.stdout
    if job == "densify":
        rows = (tmp_path / job / "straight" / "metrics.jsonl").read_text().splitlines()
        numbers = [json.loads(row)["gaussians"] for row in rows]
        changes = [later - earlier for earlier, later in pairwise(numbers)]
        assert sum(change > 0 for change in changes) > 1, "Gaussians are born between the evaluations"
