"""Let libFuzzer damage the files of one reader, guided by the lines of Python that an input reaches.

    python scripts/fuzz_guided.py run-config --inputs 100000 --seconds 60 --keep found

Needs ``pip install 'learn2splat[fuzz]'``. All modules of the package that the readers import are instrumented, and
plyfile. libFuzzer ends the process: with exit code 0 when nothing was found, else at the first input that a reader
neither accepts nor refuses, which it writes to ``--keep``. `fuzz.py` runs this for all readers.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SLOW_SECONDS = 20
"""For one input, by the clock on the wall: other programs may be running."""

with atheris.instrument_imports(include=["learn2splat", "plyfile"]):
    from tests.fuzzing import little_memory
    from tests.readers import READERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", help="its name, blanks as hyphens")
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=0, help="most seconds; 0: any number")
    parser.add_argument("--keep", type=Path, default=Path(), help="where an input that fails goes (here)")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    work = Path(tempfile.mkdtemp())
    prey = {name.replace(" ", "-"): make for name, make in READERS.items()}[given.reader](work)
    corpus = work / "corpus"
    corpus.mkdir()
    for number, content in enumerate(prey.sound):
        (corpus / str(number)).write_bytes(content)
    longest = 4 * max(map(len, prey.sound))
    options = [f"-runs={given.inputs}", f"-max_total_time={given.seconds}", f"-max_len={longest}"]
    options += ["-rss_limit_mb=4096", f"-timeout={SLOW_SECONDS}", f"-artifact_prefix={given.keep}/{given.reader}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], prey.survives)
    with little_memory():
        atheris.Fuzz()


if __name__ == "__main__":
    main()
