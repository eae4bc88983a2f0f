"""Nothing is unpickled, nobody is talked to, and what is shared does not tell where it was made.

The exception: `learn2splat.eval.workers` shares out work with `ProcessPoolExecutor`, which pickles what passes through
pipes between a process and those that it started itself. No file and no other program's bytes are ever unpickled.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import learn2splat

PACKAGE = Path(learn2splat.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

WATCH = """
import os, sys
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
NETWORK += ("urllib.Request",)
def watch(event, arguments):
    if event in NETWORK or event.startswith(("http.client", "ftplib", "smtplib", "pickle.")):
        print(f"{event} {arguments}", file=sys.stderr, flush=True)
        os._exit(99)  # an exception could be caught
sys.addaudithook(watch)
"""
IMPORT = (
    WATCH
    + """
import importlib, pkgutil, learn2splat
names = [module.name for module in pkgutil.walk_packages(learn2splat.__path__, "learn2splat.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 80, names
assert "viser" not in sys.modules
"""
)
RUN = (
    WATCH
    + """
from learn2splat.cli import cli, run
here = sys.argv[1]
small = ["--max-gaussians", "50", "--sh-degree", "0"]
train = ["data.procedural=1", "data.views=8", "data.width=32", "validation.procedural=1", "validation.views=8"]
train += ["validation.width=32", "validation.settings=[dense]", "validation.steps=[2]", "train.meta_steps=1"]
train += ["train.samples=1", "estimator.settings.longest_rollout=2", f"data.captures=[{here}/scene]"]
board = ["--optimizers", f"adam,mine={here}/training/optimizer", "--settings", "dense", "--workers", "1", "max_size=32"]
board += ["budgets.steps=[0,2]", "budgets.seconds=[]"]
for command in (
    ["scene", "make", "--out", f"{here}/scene", "--views", "4", "--width", "32"],
    ["optimize", "--scene", f"{here}/scene", "--steps", "2", "--quiet", "--out", f"{here}/run", *small],
    ["meta-train", "--out", f"{here}/training", "--quiet", *train],
    ["leaderboard", "--scenes", f"{here}/scene", "--out", f"{here}/board", *board],
):
    sys.argv[1:] = command
    assert run(lambda: cli.main(command, prog_name="l2s", standalone_mode=False)) == 0, command
"""
)
PRIVATE = {"config.yaml", ".sqlite", ".h5"}
"""Names and suffixes of what says where its scene lies, because a run that goes on has to find it."""


def faults(source: str) -> list[str]:
    """Ways in which Python code could run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in FORBIDDEN]
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
        if called == "torch.load" and options.get("weights_only") != "True":
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if options.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: allow_pickle")
        if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
            found.append(f"{node.lineno}: {called}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill as d",
        "from pickle import loads",
        "import torch\ntorch.load('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "np.load('a', allow_pickle=True)",
        "np.load('a', allow_pickle=flag)",
        "yaml.load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert len(faults(source)) == 1


def test_the_search_lets_pass_what_is_safe() -> None:
    safe = "import torch\ntorch.load('a', weights_only=True)\nnp.load('a', allow_pickle=False)\nyaml.safe_load('a')"
    assert faults(safe + "\nmodel.eval()\njson.load(file)") == []


def test_nothing_in_the_project_unpickles() -> None:
    """The package, and what stands beside it in a checkout; tests pickle to see that what travels to workers can."""
    beside = [path for name in ("scripts", "benchmarks", "examples") for path in (ROOT / name).rglob("*.py")]
    files = sorted([*PACKAGE.rglob("*.py"), *beside])
    assert len(files) > 110
    assert {path.relative_to(ROOT).parts[0] for path in beside} == {"scripts", "benchmarks", "examples"}
    found = [f"{path}:{fault}" for path in files for fault in faults(path.read_text("utf-8"))]
    assert found == []


def test_importing_every_module_opens_no_connection() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_open_no_connection_and_what_they_write_has_no_local_path(tmp_path: Path) -> None:
    home = tmp_path / "somebody nowhere"
    home.mkdir()
    done = subprocess.run([sys.executable, "-c", RUN, home], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    written = [path for path in home.rglob("*") if path.is_file() and not {path.name, path.suffix} & PRIVATE]
    assert {"summary.json", "report.html", "leaderboard.json", "leaderboard.html", "manifest.json"} <= {
        path.name for path in written
    }
    for word in (b"somebody", b"nowhere"):
        assert [path for path in written if word in path.read_bytes()] == []
