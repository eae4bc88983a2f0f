"""Shared fixtures: small random scenes, cameras and a tiny capture."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import pytest
import torch

from learn2splat.cameras import Cameras
from learn2splat.scene.gaussians import GaussianScene

SCENES = Path(os.environ.get("L2S_SCENES", Path(__file__).resolve().parents[2] / "shared" / "scenes"))


def random_scene(
    count: int, seed: int = 0, degree: int = 3, dtype: torch.dtype = torch.float64, spread: float = 1.0
) -> GaussianScene:
    """Gaussians in a box in front of `ring_cameras`, anisotropic, of mixed opacity."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return GaussianScene(
        means=normal(count, 3) * 0.5 * spread,
        log_scales=normal(count, 3) * 0.5 - 2.0,
        quats=normal(count, 4),
        logit_opacities=normal(count) * 1.5,
        sh=normal(count, (degree + 1) ** 2, 3) * 0.3,
    ).to(dtype=dtype)


def ring_cameras(
    count: int = 2, width: int = 40, height: int = 28, distance: float = 3.0, dtype: torch.dtype = torch.float64
) -> Cameras:
    """Cameras on a circle, looking at the origin."""
    transforms = []
    for i in range(count):
        angle = torch.tensor(0.7 * i + 0.2, dtype=torch.float64)
        eye = distance * torch.stack([angle.sin(), torch.tensor(-0.2, dtype=torch.float64), -angle.cos()])
        forward = -eye / eye.norm()
        right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), forward)
        right = right / right.norm()
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        transform = torch.eye(4, dtype=torch.float64)
        transform[:3, :3], transform[:3, 3] = rotation, -rotation @ eye
        transforms.append(transform)
    focal = 0.9 * width
    K = torch.tensor([[focal, 0, width / 2 + 0.7], [0, focal * 1.05, height / 2 - 0.4], [0, 0, 1]], dtype=dtype)
    return Cameras.of_one_size(K.expand(count, 3, 3).contiguous(), torch.stack(transforms).to(dtype), width, height)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def scenes_folder() -> Path:
    """Real captures for development; tests that need them skip where they are absent."""
    if not SCENES.is_dir():
        pytest.skip(f"real captures are not at {SCENES}; set L2S_SCENES to their folder")
    return SCENES
