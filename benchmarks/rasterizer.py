"""Speed of the compiled CPU rasteriser: where its time goes and how it grows.

Times are CPU time of one thread, minimum over repetitions, forward and backward through the Python wrapper, unless a
line says wall time. Usage: ``python benchmarks/rasterizer.py [--quick] [--json out.json]``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from learn2splat import native
from learn2splat.cameras import Cameras
from learn2splat.native.photometric import photometric
from learn2splat.render.base import GradientRequest
from learn2splat.render.cpu import CpuRenderer
from learn2splat.render.cpu.rasterizer import rasterise
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.gaussians import GaussianScene

# arithmetic per pixel evaluation, counted in the formulas (a fused multiply-add is 2)
FORWARD_FLOP_PER_LANE = 35
BACKWARD_FLOP_PER_LANE = 67


def synthetic_scene(n: int, seed: int = 0) -> GaussianScene:
    """A clustered cloud in a room of side 2: three quarters on spheres, a tenth on the ground, the rest anywhere."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    on_spheres, on_ground = 3 * n // 4, n // 10
    centers, radii = uniform(12, 3) * 1.6 - 0.8, uniform(12) * 0.3 + 0.1
    which = torch.randint(0, 12, (on_spheres,), generator=generator)
    directions = torch.nn.functional.normalize(normal(on_spheres, 3), dim=-1)
    spheres = centers[which] + radii[which, None] * directions
    ground = torch.cat([uniform(on_ground, 2) * 3 - 1.5, torch.full((on_ground, 1), -1.0)], dim=-1)[:, [0, 2, 1]]
    rest = uniform(n - on_spheres - on_ground, 3) * 2 - 1
    means = torch.cat([spheres, ground, rest])
    distances = torch.from_numpy(cKDTree(means.numpy()).query(means.numpy(), k=9)[0]).float()
    typical = distances[:, 1:].square().mean(dim=-1).sqrt().clamp_min(1e-4)
    return GaussianScene(
        means=means,
        log_scales=typical.log()[:, None] + 0.4 * normal(n, 3),
        quats=normal(n, 4),
        logit_opacities=1.5 * normal(n),
        sh=torch.cat([normal(n, 1, 3), 0.2 * normal(n, 15, 3)], dim=1),
    )


def orbit(views: int, width: int, height: int) -> Cameras:
    """Cameras on a circle around the cloud, looking at its centre."""
    poses = torch.eye(4).repeat(views, 1, 1)
    for view in range(views):
        angle = torch.tensor(2 * torch.pi * view / views)
        position = 3.5 * torch.stack([angle.sin(), torch.tensor(0.3), -angle.cos()])
        forward = -position / position.norm()
        right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward)
        right = right / right.norm()
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        poses[view, :3, :3] = rotation
        poses[view, :3, 3] = -rotation @ position
    focal = 0.9 * max(width, height)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).repeat(views, 1, 1)
    return Cameras.of_one_size(K, poses, width, height)


def least(function: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds of the fastest of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        begin = clock()
        function()
        times.append(clock() - begin)
    return 1e3 * min(times)


class Case:
    """One scene seen by a ring of cameras, with random cotangents."""

    def __init__(self, n: int, views: int, width: int, height: int) -> None:
        self.name = f"{n // 1000}k {width}x{height} C={views}"
        self.scene = synthetic_scene(n)
        self.cameras = orbit(views, width, height)
        generator = torch.Generator().manual_seed(1)
        self.cotangent = torch.randn(views, height, width, 3, generator=generator)
        self.depth_cotangent = torch.randn(views, height, width, generator=generator)

    def step(self, renderer: Any, depth: bool = False, request: GradientRequest = GradientRequest()) -> None:
        _, pull_back = renderer.linearise(self.scene, self.cameras, depth=depth)
        pull_back(self.cotangent, depth=self.depth_cotangent if depth else None, request=request)

    def split(self, repeats: int) -> dict[str, float]:
        """Forward and backward apart, and the work and speed of the two raster loops."""
        renderer, best = CpuRenderer(), {}
        for _ in range(repeats):
            times = [time.process_time()]
            _, rendering = rasterise(self.scene, self.cameras, renderer.settings)
            times.append(time.process_time())
            rendering.pull_back(self.cotangent)
            times.append(time.process_time())
            row = {
                "forward_ms": 1e3 * (times[1] - times[0]),
                "backward_ms": 1e3 * (times[2] - times[1]),
                "total_ms": 1e3 * (times[2] - times[0]),
                **rendering.statistics(),
            }
            best = {name: min(value, best.get(name, value)) for name, value in row.items()}
        return best


def print_row(name: str, values: dict[str, Any]) -> None:
    cells = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()]
    print(f"{name:32s} " + "  ".join(cells), flush=True)


def growth(repeats: int, quick: bool) -> dict[str, Any]:
    """Time over the number of Gaussians, pixels and cameras."""
    sizes = [(128, 128), (256, 256), (512, 320)]
    result = {}
    for n in (5_000, 20_000) if quick else (5_000, 20_000, 100_000):
        for views in (1, 8):
            for width, height in sizes:
                case = Case(n, views, width, height)
                row = case.split(repeats)
                result[case.name] = row
                print_row(case.name, {key: round(row[key], 2) for key in ("forward_ms", "backward_ms", "total_ms")})
    return result


def roofline(repeats: int) -> dict[str, Any]:
    """Share of the measured FMA peak that the raster phases reach, list building and reductions included."""
    library = native.library()
    assert library is not None
    peak = library.l2s_peak_flops()
    row = Case(20_000, 8, 256, 256).split(repeats)
    lanes = library.l2s_vector_lanes()
    result = {"peak_gflops": peak / 1e9, "blocks": row["forward_lanes"] // lanes}
    for phase, flop in (("forward", FORWARD_FLOP_PER_LANE), ("backward", BACKWARD_FLOP_PER_LANE)):
        speed = flop * row[f"{phase}_lanes"] / row[f"{phase}_raster_seconds"]
        result[f"{phase}_gflops"] = speed / 1e9
        result[f"{phase}_share_of_peak"] = speed / peak
        result[f"{phase}_ns_per_block"] = 1e9 * row[f"{phase}_raster_seconds"] / (row[f"{phase}_lanes"] / lanes)
    both = FORWARD_FLOP_PER_LANE * row["forward_lanes"] + BACKWARD_FLOP_PER_LANE * row["backward_lanes"]
    result["share_of_peak"] = both / (row["forward_raster_seconds"] + row["backward_raster_seconds"]) / peak
    return result


def extras(repeats: int) -> dict[str, float]:
    """Cost of what is optional, relative to the plain colour path."""
    case, renderer = Case(20_000, 8, 256, 256), CpuRenderer()
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "depth": {"depth": True},
        "means2d": {"request": GradientRequest(means2d_px=True)},
        "view_squares": {"request": GradientRequest(view_squares=True)},
        "per_view": {"request": GradientRequest(per_view=True)},
    }
    times = {
        name: least(lambda chosen=chosen: case.step(renderer, **chosen), repeats) for name, chosen in variants.items()
    }
    result = {"plain_ms": times["plain"]}
    result |= {f"{name}_ratio": times[name] / times["plain"] for name in variants if name != "plain"}
    target = torch.rand(8, 256, 256, 3)
    image = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    ssim = least(lambda: photometric(image, target, 0.2, True), repeats)
    return result | {"ssim_ms_per_view": ssim / 8, "ssim_share_of_step": ssim / (ssim + times["plain"])}


def against_reference() -> dict[str, float]:
    """Ratio to plain torch on a small scene."""
    case = Case(2_000, 1, 64, 64)
    fast, slow = least(lambda: case.step(CpuRenderer()), 20), least(lambda: case.step(ReferenceRenderer()), 2)
    return {"compiled_ms": fast, "torch_ms": slow, "ratio": slow / fast}


def threads(repeats: int) -> dict[str, float]:
    """Wall time with one and two threads; means something only when two cores are free."""
    result = {}
    for case in (Case(20_000, 8, 256, 256), Case(20_000, 1, 256, 256)):
        wall = {}
        for count in (1, 2):
            torch.set_num_threads(count)
            wall[count] = least(lambda case=case: case.step(CpuRenderer()), repeats, time.perf_counter)
        torch.set_num_threads(1)
        result |= {f"{case.name} 1": wall[1], f"{case.name} 2": wall[2], f"{case.name} speedup": wall[1] / wall[2]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases and repetitions")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    repeats = 5 if arguments.quick else 15
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__},
        "instruction_set": native.instruction_set(),
    }
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "roofline": lambda: roofline(repeats),
        "extras": lambda: extras(repeats),
        "threads": lambda: threads(repeats),
        "against_reference": against_reference,
    }
    print(f"instruction set {results['instruction_set']}, load {os.getloadavg()[0]:.1f}")
    for name, section in sections.items():
        results[name] = section()
        print_row(name, results[name])
    results["growth"] = growth(max(3, repeats // 3), arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
