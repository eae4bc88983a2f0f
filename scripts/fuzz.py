"""Damage files at random and see that every reader accepts or refuses them.

    python scripts/fuzz.py --inputs 100000
    python scripts/fuzz.py --inputs 100000 --seconds 60 --reader photo
    python scripts/fuzz.py --inputs 100000 --reader images.txt --guided

Any other exception than a refusal, an allocation far beyond the file among them, or an input that takes longer than
`SLOW` seconds is a failure: its input is written to ``--keep`` and the exit code is 1. The damage is that of
``tests/test_fuzz.py``; with ``--guided`` it is that of libFuzzer, guided by the lines of Python that an input reaches
(needs ``pip install atheris``, one reader at a time).
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SLOW = 2.0


def fuzz(name: str, inputs: int, seconds: float, seed: int, keep: Path) -> list[str]:
    """Feed up to ``inputs`` inputs to the reader ``name``; what went wrong."""
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
    return list(problems.values())


def guided(name: str, inputs: int, keep: Path) -> None:
    """Let libFuzzer look for inputs that reach other lines of the readers; does not return."""
    import atheris

    with atheris.instrument_imports(
        include=["learn2splat.data", "learn2splat.scene", "learn2splat.checkpoint", "plyfile"]
    ):
        from tests.fuzzing import little_memory
        from tests.readers import READERS
    work = Path(tempfile.mkdtemp())
    prey = READERS[name](work)
    corpus = work / "corpus"
    corpus.mkdir()
    for number, content in enumerate(prey.sound):
        (corpus / str(number)).write_bytes(content)
    longest = 4 * max(map(len, prey.sound))
    options = [f"-runs={inputs}", f"-max_len={longest}", "-rss_limit_mb=4096", f"-timeout={SLOW:.0f}"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={keep}/", str(corpus)], prey.survives)
    with little_memory():
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of each reader (1000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="most processor time for each reader")
    parser.add_argument("--reader", help="which (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(), help="where inputs that fail go (here)")
    parser.add_argument("--guided", action="store_true", help="by coverage")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    given.keep.mkdir(parents=True, exist_ok=True)
    if given.guided:
        guided(given.reader or parser.error("--guided needs --reader"), given.inputs, given.keep)
    from tests.readers import READERS

    names = [given.reader] if given.reader else list(READERS)
    problems = [p for name in names for p in fuzz(name, given.inputs, given.seconds, given.seed, given.keep)]
    print("\n".join(problems) or "every input was accepted or refused")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
