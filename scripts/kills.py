"""Kill `optimize`, `meta-train` and `leaderboard` at random moments and see that they end with the same bits.

    python scripts/kills.py --kills 50
    python scripts/kills.py --kills 10 --jobs densify --seed 3 --keep kills

Each job runs once undisturbed. Then it is started again and again in another folder and gets SIGINT, SIGTERM or
SIGKILL at a random moment until it ends by itself; what it wrote must be what the undisturbed one wrote, but for times,
with no file more or less. That is repeated until all kills are spent; only a signal to a living process is one. Most
come at some moment after the process has saved something, the others between the start of Python and the first save.
The last lines are a table of the kills. Exit code 1 when anything differs. Tiny settings: a process takes seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from learn2splat.eval.store import RowStore

SCENE = "procedural:seed=3,views=9,width=48"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
EARLY = 0.2
"""Share of the signals that do not wait for the process to save something."""
KILLS_OF_A_ROUND = 10
"""About so many kills fit between the first save and the end of a job."""
HEAD = f"""| job | kills | after a save | {" | ".join(number.name for number in SIGNALS)} | rounds | same bits |
|---|{"---|" * (4 + len(SIGNALS))}"""
TIMES = ("seconds", "seconds_render", "seconds_update", "seconds_guard", "peak_memory_mb")
OPTIMIZE = ["optimize", "--quiet", "--scene", SCENE, "--steps", "150", "--max-gaussians", "300", "--sh-degree", "1"]
OPTIMIZE += ["--eval-at", "0,10,50,200", "checkpoint_seconds=0.1"]
DENSIFY = ["optimize", "--quiet", "--scene", SCENE, "--steps", "200", "--init", "random", "--sh-degree", "1"]
DENSIFY += ["--max-gaussians", "800", "--densify", "default", "--eval-at", "0,45,65,95,115,145,165,185"]
DENSIFY += ["init_gaussians=100", "densify.grow_gradient=0.001", "densify.reset_every=50"]  # the reset kills many
DENSIFY += ["densify.refinements.stop=28000", "checkpoint_seconds=0.1"]
META_TRAIN = ["meta-train", "--quiet", "data.procedural=1", "data.views=8", "data.width=32", "validation.procedural=1"]
META_TRAIN += ["validation.views=8", "validation.width=32", "validation.settings=[dense]", "validation.steps=[2,4]"]
META_TRAIN += ["train.meta_steps=8", "train.validate_every=4", "train.samples=1", "train.checkpoint_seconds=0.1"]
META_TRAIN += ["estimator.settings.longest_rollout=2"]
LEADERBOARD = ["leaderboard", "--scenes", SCENE, "--optimizers", "adam,sgd,adam-tuned", "--settings", "dense"]
LEADERBOARD += ["--workers", "1", "max_size=48", "max_gaussians=200", "budgets.steps=[0,20,60]", "budgets.seconds=[]"]


def run_digest(folder: Path) -> str:
    """Of a run: its PLY, and its evaluations without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return _digest((folder / "point_cloud.ply").read_bytes(), json.dumps(rows).encode())


def training_digest(folder: Path) -> str:
    """Of a meta-training: the weights that it ends with."""
    parts = []
    for path in sorted((folder / "optimizer").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            parts += [f"{name} {file.get_tensor(name).tolist()}".encode() for name in sorted(file.keys())]
    return _digest(*parts)


def board_digest(folder: Path) -> str:
    """Of a leaderboard: its rows without times."""
    rows = [dataclasses.asdict(row) for row in RowStore(folder / "steps.sqlite").rows()]
    kept = [{key: value for key, value in row.items() if "seconds" not in key and "memory" not in key} for row in rows]
    return _digest(json.dumps(sorted(kept, key=str), default=str).encode())


def saved_at(file: str) -> Callable[[Path], int]:
    """The time at which ``file`` of a folder was written last, 0 for never."""

    def time_ns(folder: Path) -> int:
        try:
            return (folder / file).stat().st_mtime_ns
        except OSError:
            return 0

    return time_ns


def runs_saved(folder: Path) -> int:
    """Number of runs that a leaderboard has measured."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'steps.sqlite'}?mode=ro", uri=True)) as rows:
            return int(rows.execute("select count(*) from runs").fetchone()[0])
    except sqlite3.Error:  # not there yet, or busy
        return 0


@dataclass(frozen=True)
class Job:
    """A command that writes to a folder.

    Args:
        command: without ``--out``.
        digest: of what it wrote.
        saved: grows with every save that the command could go on from; 0: none.
        resume: what to add instead of all but the sub-command when there is a checkpoint; None: the command resumes.
    """

    command: list[str]
    digest: Callable[[Path], str]
    saved: Callable[[Path], int]
    resume: list[str] | None = None

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        arguments = self.command
        if self.resume is not None and folder.exists():
            if self.saved(folder):
                arguments = [self.command[0], *self.resume]
            else:
                shutil.rmtree(folder)  # killed before there was anything to resume
        return subprocess.Popen(
            [sys.executable, "-m", "learn2splat.cli", *arguments, "--out", str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def wait_for_save(self, process: subprocess.Popen[bytes], folder: Path, before: int) -> None:
        """Return when there is a save later than ``before``, or the process has ended."""
        while process.poll() is None and self.saved(folder) <= before:
            time.sleep(0.01)


RESUME = ["--quiet", "--resume"]
JOBS = {
    "optimize": Job(OPTIMIZE, run_digest, saved_at("checkpoint/manifest.json"), RESUME),
    "densify": Job(DENSIFY, run_digest, saved_at("checkpoint/manifest.json"), RESUME),
    "meta-train": Job(META_TRAIN, training_digest, saved_at("checkpoint-0/manifest.json")),
    "leaderboard": Job(LEADERBOARD, board_digest, runs_saved),
}


@dataclass(frozen=True)
class Straight:
    """An undisturbed run: the digest and names of what it wrote, its seconds up to its first save and from there on."""

    digest: str
    files: list[str]
    before: float
    after: float


@dataclass(frozen=True)
class Kill:
    """A signal to a living process; ``resumable``: there was something to go on from."""

    number: signal.Signals
    resumable: bool


@dataclass(frozen=True)
class Campaign:
    """All rounds of one job."""

    name: str
    kills: list[Kill]
    rounds: int
    problems: list[str]

    def row(self) -> str:
        """A line of the table under `HEAD`."""
        counts = [len(self.kills), sum(kill.resumable for kill in self.kills)]
        counts += [sum(kill.number is number for kill in self.kills) for number in SIGNALS]
        return f"| {self.name} | {' | '.join(map(str, counts))} | {self.rounds} | {'no' if self.problems else 'yes'} |"


def straight(job: Job, folder: Path) -> Straight:
    """Run ``job`` undisturbed."""
    started = time.monotonic()
    process = job.start(folder)
    job.wait_for_save(process, folder, 0)
    saved = time.monotonic()
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{job.command[0]} failed undisturbed:\n{errors.decode()}")
    return Straight(job.digest(folder), _files(folder), saved - started, time.monotonic() - saved)


def disturbed(
    job: Job, folder: Path, most: int, expected: Straight, chance: random.Random
) -> tuple[list[Kill], list[str]]:
    """Kill ``job`` up to ``most`` times and let it end.

    Returns:
        The kills, and what was wrong with the way it ended.
    """
    kills: list[Kill] = []
    while len(kills) < most:
        number, early = chance.choice(SIGNALS), chance.random() < EARLY
        delay = chance.uniform(0, expected.before if early else 2 * expected.after / KILLS_OF_A_ROUND)
        before = job.saved(folder)
        process = job.start(folder)
        if not early:
            job.wait_for_save(process, folder, before)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay)
        living, resumable = process.poll() is None, job.saved(folder) > 0
        if living:
            process.send_signal(number)
            kills.append(Kill(number, resumable))
        _, errors = process.communicate()
        code, importing = process.returncode, "KeyboardInterrupt" in errors.decode()
        event = f"{number.name} with {'a' if resumable else 'no'} save" if living else "ended by itself"
        print(f"  {event}: exit code {code}", flush=True)
        if code == 0:
            return kills, []
        if not living or (code not in (-number, 128 + number) and not importing):
            return kills, [f"{event}: exit code {code}:\n{errors.decode()}"]
    process = job.start(folder)
    _, errors = process.communicate()
    return kills, [f"it could not go on:\n{errors.decode()}"] if process.returncode else []


def campaign(name: str, most: int, seed: int, work: Path) -> Campaign:
    """Spend ``most`` kills on the job ``name``."""
    job, chance, problems, rounds = JOBS[name], random.Random(f"{name} {seed}"), list[str](), 0
    expected, kills = straight(job, work / name / "straight"), list[Kill]()
    print(f"{name}: {expected.before:.1f} s to the first save, {expected.after:.1f} s from there on", flush=True)
    while len(kills) < most:
        folder = work / name / f"cut-{rounds}"
        spent, wrong = disturbed(job, folder, most - len(kills), expected, chance)
        kills, rounds = kills + spent, rounds + 1
        if not wrong and job.digest(folder) != expected.digest:
            wrong.append("it ended with other bits")
        if not wrong and _files(folder) != expected.files:
            odd = sorted(set(_files(folder)).symmetric_difference(expected.files))
            wrong.append(f"files differ: {odd or 'one is there twice'}")
        problems += [f"{name}, {folder}: {text}" for text in wrong]
        print(f"{name}: {'; '.join(wrong) or 'the same bits'} after {len(spent)} kills", flush=True)
    return Campaign(name, kills, rounds, problems)


def _files(folder: Path) -> list[str]:
    """Names without what depends on times: digests of entries of a buffer, and which start wrote events."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(re.sub(r"-[0-9a-f]{16}\.h5$", ".h5", name) for name in names if "events.out.tfevents." not in name)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6, help="signals in all, shared among the jobs (6)")
    parser.add_argument("--jobs", default=",".join(JOBS), help="which (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to keep the runs in")
    given = parser.parse_args()
    names = given.jobs.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        work = given.keep or Path(temporary)
        shares = [given.kills // len(names) + (i < given.kills % len(names)) for i in range(len(names))]
        done = [campaign(name, kills, given.seed, work) for name, kills in zip(names, shares, strict=True)]
    problems = [problem for one in done for problem in one.problems]
    print("\n".join([HEAD, *(one.row() for one in done), *problems]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
