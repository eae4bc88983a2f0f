"""Choice of a backend, and what happens where one is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from learn2splat import native
from learn2splat.render import gsplat
from learn2splat.render.auto import auto_renderer
from learn2splat.render.base import BackendMissingError, RenderSettings
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.reference import ReferenceRenderer


def test_the_compiled_rasteriser_is_chosen_where_it_is_there() -> None:
    if native.library() is None:
        pytest.skip(f"no compiled library: {native.why_missing()}")
    settings = RenderSettings(max_alpha=0.99)
    renderer = auto_renderer("cpu", settings)
    assert isinstance(renderer, CpuRenderer)
    assert renderer.settings is settings


def test_without_it_there_is_one_warning_and_the_torch_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "why_missing", lambda: "no compiler")
    with pytest.warns(UserWarning, match=r"no compiler.*plain torch") as caught:
        renderer = auto_renderer("cpu")
    assert len(caught) == 1
    assert isinstance(renderer, ReferenceRenderer)
    with pytest.raises(BackendMissingError, match="no compiler"):
        CpuRenderer()


def test_gsplat_is_refused_with_a_remedy() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(BackendMissingError, match="CUDA"):
        auto_renderer("cuda")
    assert "--renderer cpu" in gsplat.why_unavailable()
    with pytest.raises(BackendMissingError, match="auto, cpu or cuda"):
        auto_renderer("tpu")


def test_importing_is_quick_silent_and_compiles_nothing() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import learn2splat; "
        "assert time.perf_counter() - t < 0.5; assert 'torch' not in sys.modules; "
        "assert learn2splat.__version__; assert learn2splat.Cameras.__name__ == 'Cameras'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
