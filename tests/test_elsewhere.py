"""Whatever runs on a device finds all of its tensors there: on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as registration

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch cannot pretend a device",
    ),
]

REFINEMENTS = ["densify.refinements.start=5000", "densify.refinements.every=7500", "densify.refinements.stop=30000"]
OPTIMIZE = {
    "fixed": ["--steps", "4", "--init", "random"],
    "adaptive": [
        "--steps",
        "12",
        "--init",
        "random",
        "--densify",
        "default",
        "densify.reset_every=15000",
        *REFINEMENTS,
    ],
    "mcmc": ["--steps", "12", "--init", "random", "--densify", "mcmc", *REFINEMENTS],
    "refined": ["--steps", "4", "--init", "predict+refine", "--views", "sparse:3"],
    "held-back": ["--steps", "4", "--init", "predict", "--views", "sparse:3", "--uncertainty", "predict"],
}
"""Options of `l2s optimize`."""
TRAIN = {
    "rule": [],
    "tiny": ["experiment=tiny"],
    "windows": ["experiment=tiny", "estimator=windows"],
    "births": ["experiment=births", "estimator.longest=4", "estimator.longest_first=4"],
    "predict": ["experiment=predict"],
    "resplat": ["experiment=resplat"],
    "foresight": ["experiment=foresight", "horizon=4", "estimator.steps=[2,4]"],
    "implicit": [
        "experiment=implicit",
        "estimator.solver.first_steps=3",
        "estimator.solver.limit=3",
        "score.steps=[2]",
    ],
}
"""Overrides of `l2s meta-train`."""


ROOT = Path(__file__).resolve().parents[1]


def run_elsewhere(*command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "tests.elsewhere", *command]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "scene"
    run_elsewhere("scene", "make", "--out", str(folder), "--views", "9", "--width", "32")
    return folder


def test_every_optimizer_moves_a_scene_as_on_the_cpu() -> None:
    run_elsewhere()


def test_tensors_of_two_devices_do_not_mix() -> None:
    program = """
import torch, tests.elsewhere as there
there.register()
with there.Elsewhere():
    far, near = torch.ones(3, device=there.NAME), torch.ones(3)
    assert (2 * far).device.type == there.NAME and (far.cpu() + near).tolist() == [2, 2, 2]
    far + near
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "aten.add.Tensor: tensors on elsewhere and, of shape [(3,)], on the CPU" in done.stderr


@pytest.mark.parametrize("options", OPTIMIZE.values(), ids=OPTIMIZE)
def test_a_scene_is_optimised(capture: Path, tmp_path: Path, options: list[str]) -> None:
    small = ["--quiet", "--max-gaussians", "40", "--sh-degree", "1", "--batch-views", "2"]
    small += ["device=cuda", "renderer=reference"]
    run_elsewhere("optimize", "--scene", str(capture), "--out", str(tmp_path / "run"), *small, *options)
    assert (tmp_path / "run" / "point_cloud.ply").is_file()


@pytest.mark.parametrize("overrides", TRAIN.values(), ids=TRAIN)
def test_what_is_trained(tmp_path: Path, overrides: list[str]) -> None:
    few = ["train.meta_steps=2", "train.samples=1", "validation.settings=[dense]", "validation.steps=[2]"]
    few += [f"{part}.{key}" for part in ("data", "validation") for key in ("procedural=1", "views=8", "width=32")]
    few += ["validation.max_gaussians=40", "device=elsewhere", "renderer=reference"]
    run_elsewhere("meta-train", "--quiet", "--out", str(tmp_path / "training"), *few, *overrides)
    assert list((tmp_path / "training").glob("*/*.safetensors"))
