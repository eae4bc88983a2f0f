"""Damage files at random and see that every reader accepts or refuses them.

    python scripts/fuzz.py --inputs 100000
    python scripts/fuzz.py --inputs 100000 --seconds 60 --reader photo
    python scripts/fuzz.py --inputs 1000 --guided 100000

Any other exception than a refusal, an allocation far beyond the file among them, or an input that takes longer than
`SLOW` seconds is a fault: its input is written to ``--keep`` and the exit code is 1. The damage is that of
``tests/test_fuzz.py``; with ``--guided`` also that of libFuzzer (see `fuzz_guided`), one reader after the other. The
last lines are a table.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import re
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SLOW = 2.0
HEAD = "| reader | random inputs | guided inputs | faults |\n|---|---|---|---|"


@dataclass(frozen=True)
class Tally:
    """How many inputs a reader met, and the faults found, each once."""

    inputs: int
    faults: list[str]


def fuzz(name: str, inputs: int, seconds: float, seed: int, keep: Path) -> Tally:
    """Feed up to ``inputs`` inputs to the reader ``name``."""
    from tests.fuzzing import damaged, little_memory, quick_folder, random_damage
    from tests.readers import READERS

    chance, accepted, count, slowest, problems = random.Random(f"{name} {seed}"), 0, 0, 0.0, dict[str, str]()
    with quick_folder() as folder, little_memory():
        prey = READERS[name](folder)
        begun = last = time.process_time()
        while count < inputs and last - begun < seconds:
            content = damaged(chance.choice(prey.sound), random_damage(chance))
            count += 1
            problem = None
            try:
                accepted += prey.survives(content)
            except Exception as error:  # what is looked for
                place = traceback.extract_tb(error.__traceback__)[-1]
                problem = (f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}", str(error))
            now = time.process_time()
            took, last = now - last, now
            slowest = max(slowest, took)
            if problem is None and took > SLOW:
                problem = ("slow", f"{took:.1f} s")
            if problem and problem[0] not in problems:
                path = keep / f"{name.replace(' ', '-')}-{seed}-{count}"
                path.write_bytes(content)
                problems[problem[0]] = f"{name}: {': '.join(problem)} ({path})"
    print(
        f"{name}: {count:,} inputs, {accepted:,} accepted, {count - accepted:,} refused, {last - begun:.0f} s, "
        f"slowest {1e3 * slowest:.0f} ms",
        flush=True,
    )
    return Tally(count, list(problems.values()))


def guided(name: str, inputs: int, seconds: float, keep: Path) -> Tally:
    """The same in a process of its own with libFuzzer, which ends at the first fault."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz_guided.py")), name.replace(" ", "-")]
    command += ["--inputs", str(inputs), "--keep", str(keep)]
    command += [] if math.isinf(seconds) else ["--seconds", str(math.ceil(seconds))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    counts = [int(number) for number in re.findall(r"^(?:#|Done )(\d+)", done.stderr, re.MULTILINE)]
    print(f"{name}: {max(counts, default=0):,} guided inputs", flush=True)
    return Tally(max(counts, default=0), [f"{name}: {done.stderr[-2000:]}"] if done.returncode else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of each reader, at random (1000)")
    parser.add_argument("--guided", type=int, default=0, help="of each reader, by coverage (0; needs the extra 'fuzz')")
    parser.add_argument("--seconds", type=float, default=math.inf, help="most time for each reader and kind of input")
    parser.add_argument("--reader", help="which (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(), help="where inputs that fail go (here)")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    given.keep.mkdir(parents=True, exist_ok=True)
    from tests.readers import READERS

    rows, faults = [HEAD], list[str]()
    for name in [given.reader] if given.reader else list(READERS):
        random_ones = fuzz(name, given.inputs, given.seconds, given.seed, given.keep)
        guided_ones = guided(name, given.guided, given.seconds, given.keep) if given.guided else Tally(0, [])
        found = [*random_ones.faults, *guided_ones.faults]
        rows.append(f"| {name} | {random_ones.inputs:,} | {guided_ones.inputs:,} | {len(found)} |")
        faults += found
    print("\n".join([*rows, *faults]))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
