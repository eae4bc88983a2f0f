"""Cost of J v, J^T u, a Gauss-Newton product and diag(J^T W J), as ratios to a forward rendering in the same run.

Times are CPU time of one thread, minimum over repetitions, products in turn. The bound that is kept: J v at most 2
forward renderings. Usage: ``python benchmarks/curvature.py [--quick] [--json out.json]``; fails when J v costs more.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rasterizer import Case, print_row

from learn2splat.render.cpu import CpuRenderer

BOUND = 2.0
"""Most forward renderings that J v may cost."""


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Milliseconds of a forward rendering, and the products' ratios to it."""
    renderer = CpuRenderer()
    jacobian = renderer.jacobian(case.scene, case.cameras)
    generator = torch.Generator().manual_seed(2)
    way = case.scene.map(lambda t: torch.randn(t.shape, generator=generator))
    weights = case.cotangent.square()
    products: dict[str, Callable[[], Any]] = {
        "forward": lambda: renderer.jacobian(case.scene, case.cameras),
        "jv": lambda: jacobian.push_forward(way),
        "jtu": lambda: jacobian.pull_back(case.cotangent),
        "jtwjv": lambda: jacobian.pull_back(weights * jacobian.push_forward(way)),
        "diagonal": lambda: jacobian.diagonal(weights),
        "blocks": lambda: jacobian.blocks(weights),
    }
    best = dict.fromkeys(products, float("inf"))
    for _ in range(repeats):
        for name, product in products.items():
            begin = time.process_time()
            product()
            best[name] = min(best[name], time.process_time() - begin)
    ratios = {f"{name}_ratio": best[name] / best["forward"] for name in products if name != "forward"}
    return {"forward_ms": 1e3 * best["forward"], **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases and repetitions")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [(5_000, 1, 256, 256), (20_000, 1, 256, 256)]
    if not arguments.quick:
        sizes += [(20_000, 8, 256, 256), (100_000, 1, 512, 320), (100_000, 8, 512, 320)]
    results = {}
    for size in sizes:
        case = Case(*size)
        results[case.name] = measure(case, 5 if arguments.quick else 15)
        print_row(case.name, results[case.name])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    slow = [name for name, row in results.items() if row["jv_ratio"] > BOUND]
    if slow:
        raise SystemExit(f"J v costs more than {BOUND} forward renderings: {', '.join(slow)}")


if __name__ == "__main__":
    main()
