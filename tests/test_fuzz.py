"""Readers of damaged files accept them or refuse them with a message; nothing else, and no huge allocation."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import ALL, Edit, damage, damaged, little_memory, quick_folder, random_damage
from tests.readers import READERS

INPUTS = 1000
"""Of every reader; ``scripts/fuzz.py --inputs 100000`` is the long version."""


def test_edits_are_what_they_say() -> None:
    text = b"ab 1.5 cd"
    assert damaged(text, [Edit(0.4, None, b"9")]) == b"ab 9 cd"
    assert damaged(text, [Edit(0.0, 2, b"")]) == b" 1.5 cd"
    assert damaged(text, [Edit(0.3, ALL, b"")]) == b"ab "
    assert damaged(text, [Edit(1.0, 0, b"x")]) == text + b"x"
    assert random_damage(random.Random(3)) == random_damage(random.Random(3))


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_do_no_harm(name: str) -> None:
    with quick_folder() as folder:
        prey = READERS[name](folder)
        assert all(prey.survives(content) for content in prey.sound)

        @settings(max_examples=INPUTS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(content=st.sampled_from(prey.sound), edits=damage())
        def check(content: bytes, edits: list[Edit]) -> None:
            prey.survives(damaged(content, edits))

        with little_memory():
            check()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (the extra 'fuzz')")
@pytest.mark.parametrize("name", ["transforms.json", "run metrics"])
def test_inputs_guided_by_coverage_do_no_harm(name: str, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, root / "scripts" / "fuzz.py", "--reader", name, "--inputs", "1", "--keep", tmp_path]
    command += ["--guided", str(INPUTS)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {name} | 1 | "))
    assert row.endswith(" | 0 |")
    assert int(row.split(" | ")[2].replace(",", "")) >= INPUTS
