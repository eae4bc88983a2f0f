"""Kill `optimize`, `meta-train` and `leaderboard` at random moments and see that they end with the same bits.

    python scripts/kills.py --kills 50
    python scripts/kills.py --kills 6 --jobs optimize --seed 3 --keep kills

Each job runs once undisturbed. Then it is started again and again in another folder and gets SIGINT, SIGTERM or
SIGKILL at a random moment, from the start of Python to after its end, until it ends by itself; what it wrote must be
what the undisturbed one wrote, but for times, with no file more or less. That is repeated until all kills are spent.
Exit code 1 when anything differs. Tiny settings: a round takes seconds on an idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
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
TIMES = ("seconds", "seconds_render", "seconds_update", "seconds_guard", "peak_memory_mb")
OPTIMIZE = ["optimize", "--quiet", "--scene", SCENE, "--steps", "150", "--max-gaussians", "300", "--sh-degree", "1"]
OPTIMIZE += ["--eval-at", "0,10,50,200", "checkpoint_seconds=0.1"]
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


@dataclass(frozen=True)
class Job:
    """A command that writes to a folder.

    Args:
        command: without ``--out``.
        digest: of what it wrote.
        resume: what to add instead of all but the sub-command when there is a checkpoint; None: the command resumes.
    """

    command: list[str]
    digest: Callable[[Path], str]
    resume: list[str] | None = None

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        arguments = self.command
        if self.resume is not None and folder.exists():
            if (folder / "checkpoint" / "manifest.json").is_file():
                arguments = [self.command[0], *self.resume]
            else:
                shutil.rmtree(folder)  # killed before there was anything to resume
        return subprocess.Popen(
            [sys.executable, "-m", "learn2splat.cli", *arguments, "--out", str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )


JOBS = {
    "optimize": Job(OPTIMIZE, run_digest, ["--quiet", "--resume"]),
    "meta-train": Job(META_TRAIN, training_digest),
    "leaderboard": Job(LEADERBOARD, board_digest),
}


def straight(job: Job, folder: Path) -> tuple[str, float]:
    """The digest of an undisturbed run and its seconds."""
    started = time.monotonic()
    process = job.start(folder)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{job.command[0]} failed undisturbed:\n{errors.decode()}")
    return job.digest(folder), time.monotonic() - started


def disturbed(job: Job, folder: Path, kills: int, longest: float, chance: random.Random) -> tuple[int, list[str]]:
    """Kill ``job`` up to ``kills`` times and let it end.

    Returns:
        How many kills were spent, and what was wrong with the way it ended.
    """
    for kill in range(kills):
        number, delay = chance.choice(SIGNALS), chance.uniform(0, 1.1 * longest)
        process = job.start(folder)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        _, errors = process.communicate()
        code, early = process.returncode, "KeyboardInterrupt" in errors.decode()  # Python was still importing
        print(f"  {signal.Signals(number).name} after {delay:.2f} s: exit code {code}", flush=True)
        if code == 0:
            return kill + 1, []
        if code not in (-number, 128 + number) and not early:
            return kill + 1, [f"exit code {code} after {signal.Signals(number).name}:\n{errors.decode()}"]
    process = job.start(folder)
    _, errors = process.communicate()
    return kills, [f"it could not go on:\n{errors.decode()}"] if process.returncode else []


def campaign(name: str, kills: int, seed: int, work: Path) -> list[str]:
    """Spend ``kills`` on the job ``name``; what went wrong."""
    job, chance, problems, count = JOBS[name], random.Random(f"{name} {seed}"), [], 0
    expected, seconds = straight(job, work / name / "straight")
    files = _files(work / name / "straight")
    print(f"{name}: {seconds:.1f} s undisturbed", flush=True)
    while kills > 0:
        folder = work / name / f"cut-{count}"
        spent, wrong = disturbed(job, folder, kills, seconds, chance)
        kills, count = kills - spent, count + 1
        if not wrong and job.digest(folder) != expected:
            wrong.append("it ended with other bits")
        if not wrong and _files(folder) != files:
            wrong.append(
                f"files differ: {sorted(set(_files(folder)).symmetric_difference(files)) or 'one is there twice'}"
            )
        problems += [f"{name}, {folder}: {text}" for text in wrong]
        print(f"{name}: {'; '.join(wrong) or 'the same bits'} after {spent} signals", flush=True)
    return problems


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
        problems = []
        for name, kills in zip(names, shares, strict=True):
            problems += campaign(name, kills, given.seed, work)
    print("\n".join(problems) or f"{given.kills} kills, nothing differs")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
