"""A browser for tests of pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def look(page: Path, picture: Path, size: tuple[int, int] = (1200, 900)) -> str:
    """Open a page without a network, save a picture of it and return its elements after the scripts ran."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        pytest.skip(f"no browser is installed ({', '.join(names)})")
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    switches += " disable-component-update disable-sync"
    command = [browser, *(f"--{switch}" for switch in switches.split())]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={picture.parent}/profile"]
    command += [f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
