"""Readers of damaged files accept them or refuse them with a message; nothing else, and no huge allocation."""

from __future__ import annotations

import random

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
