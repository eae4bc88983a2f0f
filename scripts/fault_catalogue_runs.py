"""Faulty PLY files, runs and options of ``faults.py``, and machines that are full, likewise."""

from __future__ import annotations

import json
import shutil

from fault_cases import (
    EXPORT,
    MADE,
    OPTIMIZE,
    RESUME,
    SCENE,
    SMALL,
    SPARSE,
    case,
    cut,
    edited,
    filled,
    only,
    ply,
    run_first,
    trained,
)

# ---- PLY

case("missing PLY", 2, r"no such file", command=EXPORT)
case("garbage PLY", 2, r"a\.ply.*no PLY header.*export", filled("a.ply"), EXPORT)
case(
    "truncated PLY",
    2,
    r"a\.ply.*early end-of-file.*export",
    only(run_first, lambda f: shutil.copy(f / "run/point_cloud.ply", f / "a.ply"), cut("a.ply")),
    EXPORT,
)
case(
    "PLY that announces 10^15 vertices",
    2,
    r"a\.ply.*truncated",
    filled("a.ply", ply(f"element vertex {10**15}\nproperty float x\n")),
    EXPORT,
)
case(
    "PLY without Gaussians",
    2,
    r"not a Gaussian scene, it lacks",
    filled("a.ply", ply("element vertex 1\nproperty float x\n", bytes(4))),
    EXPORT,
)
case(
    "unknown suffix to export to",
    2,
    r"\.ply, \.splat or \.spz",
    run_first,
    ["scene", "export", "run/point_cloud.ply", "a.obj"],
)

# ---- safetensors, checkpoints, run folders, rows

TRAINED = ["optimize", "--scene", SCENE, "--optimizer", "trained", "--steps", "2", "--out", "run", *SMALL]
case(
    "truncated safetensors",
    2,
    r"tensors\.safetensors: damaged",
    only(trained, cut("trained/tensors.safetensors")),
    TRAINED,
)
case(
    "garbage safetensors",
    2,
    r"tensors\.safetensors: damaged",
    only(trained, filled("trained/tensors.safetensors")),
    TRAINED,
)
case(
    "garbage manifest",
    2,
    r"trained: not a readable checkpoint",
    only(trained, filled("trained/manifest.json")),
    TRAINED,
)
case(
    "manifest of a later version",
    2,
    r"update learn2splat",
    only(
        trained,
        lambda f: (f / "trained/manifest.json").write_text(
            json.dumps(json.loads((f / "trained/manifest.json").read_text()) | {"schema": 99})
        ),
    ),
    TRAINED,
)
case("missing optimizer", 2, r"trained", command=TRAINED)
case(
    "truncated config.yaml of a run",
    2,
    r"config\.yaml.*start a new run",
    only(run_first, edited("run/config.yaml", lambda lines: [*lines[:12], lines[12][:3]])),
    RESUME,
)
case(
    "garbage config.yaml of a run",
    2,
    r"config\.yaml.*start a new run",
    only(run_first, filled("run/config.yaml")),
    RESUME,
)
case(
    "garbage metrics.jsonl of a run",
    2,
    r"metrics\.jsonl is damaged.*delete it",
    only(run_first, filled("run/metrics.jsonl")),
    RESUME,
)
case(
    "truncated checkpoint of a run",
    2,
    r"tensors\.safetensors: damaged",
    only(run_first, cut("run/checkpoint/tensors.safetensors")),
    RESUME,
)
case(
    "a run without a checkpoint",
    2,
    r"checkpoint",
    only(run_first, lambda f: shutil.rmtree(f / "run/checkpoint")),
    RESUME,
)
case("nothing to resume", 2, r"holds no run to resume.*leave out --resume", command=RESUME)
case("an existing run", 2, r"add --resume.*another --out", run_first)
BOARD = [
    "leaderboard",
    "--scenes",
    SCENE,
    "--optimizers",
    "adam",
    "--settings",
    "dense",
    "--out",
    "board",
    "--workers",
    "1",
]
BOARD += ["max_size=32", "max_gaussians=50", "budgets.steps=[0,2]", "budgets.seconds=[]"]
case(
    "garbage rows of a leaderboard",
    2,
    r"steps\.sqlite.*choose another",
    lambda f: ((f / "board").mkdir(), filled("board/steps.sqlite")(f)),
    BOARD,
)

TRAINED_BOARD = [p if p != "adam" else "trained" for p in BOARD]
case(
    "garbage manifest of an optimizer to compare",
    2,
    r"trained: not a readable checkpoint.*copy the folder again",
    only(trained, filled("trained/manifest.json")),
    TRAINED_BOARD,
)
case(
    "manifest nested 100,000 deep",
    2,
    r"trained: not a readable checkpoint.*copy the folder again",
    only(trained, filled("trained/manifest.json", b"[" * 100_000)),
    TRAINED_BOARD,
)

# ---- options

case("unknown option", 2, r"No such option.*--stepz", command=[*MADE, "--stepz", "3"])
case("unknown command", 2, r"No such command", command=["optimise"])
case("unknown Hydra key", 2, r"ssim_wait", command=[*MADE, "loss.ssim_wait=1"])
case("unknown Hydra group", 2, r"lens", command=[*MADE, "lens=wide"])
case("a word that is no override", 2, r"GROUP\.KEY=VALUE", command=[*MADE, "quickly"])
case("unknown optimizer", 2, r"adamm", command=[p if p != "adam" else "adamm" for p in MADE])
case("a target outside the package", 2, r"not allowed", command=[*MADE, "optimizer._target_=os.system"])
case("unknown key of a procedural scene", 2, r"sead", command=[p if p != SCENE else "procedural:sead=3" for p in MADE])
case("unknown Hydra key of meta-train", 2, r"meta_stepz", command=["meta-train", "--out", "run", "train.meta_stepz=3"])
case(
    "unknown setting of a leaderboard",
    2,
    r"denser",
    command=["leaderboard", "--scenes", SCENE, "--settings", "denser", "--optimizers", "adam", "--out", "run"],
)

# ---- a folder where a file should be, and the other way round

for name in ("cameras.txt", "images.txt"):
    case(
        f"a folder called {name}",
        2,
        rf"(?i)is a directory.*{name}|{name}.*is a directory",
        lambda f, name=name: ((f / SPARSE / name).unlink(), (f / SPARSE / name).mkdir()),  # type: ignore[misc]
    )
case(
    "a file called images",
    2,
    r"photos.*was found.*put them into",
    only(lambda f: shutil.rmtree(f / "scene/images"), filled("scene/images")),
)
case(
    "a folder to start from",
    2,
    r"binary: not a readable PLY.*Is a directory",
    command=[*OPTIMIZE, "--init", "ply:binary"],
)

# ---- the machine

case(
    "more memory than --max-memory",
    4,
    r"MiB are needed and 1 MiB allowed: lower --max-size",
    command=[*MADE, "--max-memory", "1"],
)
BIG = [
    "optimize",
    "--scene",
    "procedural:seed=3,views=3,width=64",
    "--optimizer",
    "adam",
    "--steps",
    "2",
    "--out",
    "run",
    "--init",
    "random",
]
BIG += ["init_gaussians=30000000", "max_gaussians=null", "--max-memory", "999999"]
case("out of memory", 4, r"out of memory: lower --max-size", command=BIG, limits={"RLIMIT_AS": 3 << 30})
case(
    "an output below a file",
    5,
    r"(?i)not a directory: 'file/run'; name another with --out",
    filled("file"),
    [p if p != "run" else "file/run" for p in MADE],
)
case(
    "an output that cannot be made",
    5,
    r"/proc/run'; name another with --out",
    command=[p if p != "run" else "/proc/run" for p in MADE],
)
case(
    "files limited to 3 kB, as by a full disk",
    5,
    r"File too large|cannot write",
    command=MADE,
    limits={"RLIMIT_FSIZE": 3000},
)
case("an output that is a file", 2, r"run exists and is not empty.*another --out", filled("run"), MADE)
ON_DISK = [p if p != "run" else "disk/run" for p in MADE]
BOARD_ON_DISK = [p if p != "board" else "disk/board" for p in BOARD]
case("full disk", 5, r"(?i)no space left.*free some space", command=ON_DISK, mount="size=16k")
case(
    "full disk below a leaderboard",
    5,
    r"(?i)steps\.sqlite.*full.*free some space|no space left",
    command=BOARD_ON_DISK,
    mount="size=32k",
)
case(
    "full disk below a scene",
    5,
    r"(?i)no space left.*disk/made.*free some space",
    command=["scene", "make", "--out", "disk/made", "--views", "4", "--width", "64"],
    mount="size=16k",
)
case("read-only disk", 5, r"(?i)read-only file system.*make the folder writable", command=ON_DISK, mount="ro")
