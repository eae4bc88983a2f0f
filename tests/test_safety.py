"""Nothing is unpickled, and importing the package talks to nobody."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import learn2splat

PACKAGE = Path(learn2splat.__file__).parent
FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

WATCH = """
import sys
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
def watch(event, arguments):
    if event in NETWORK:
        raise AssertionError(f"{event} {arguments} at import")
sys.addaudithook(watch)
import importlib, pkgutil, learn2splat
names = [module.name for module in pkgutil.walk_packages(learn2splat.__path__, "learn2splat.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 80, names
assert "viser" not in sys.modules
"""


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


def test_nothing_in_the_package_unpickles() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 80
    found = [f"{path.relative_to(PACKAGE)}:{fault}" for path in files for fault in faults(path.read_text("utf-8"))]
    assert found == []


def test_importing_every_module_opens_no_connection() -> None:
    done = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
