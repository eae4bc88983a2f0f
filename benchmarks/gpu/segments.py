"""Sums over segments on a GPU: torch's index_add against torch-scatter, the same values and milliseconds.

    python benchmarks/gpu/segments.py --counts 100000,1000000

What `l2s-tiny` pools: 12 numbers per Gaussian in 64 clusters. Written without a GPU at hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from learn2splat.optim.base import CLUSTERS
from learn2splat.optim.learned.segments import segment_sum

WIDTH = 12


def milliseconds(call: Callable[[], Tensor]) -> float:
    """Median, with the device synchronised."""
    return 1e3 * Timer("call()", globals={"call": call}).blocked_autorange().median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="100000,1000000")
    arguments = parser.parse_args()
    print("| rows | index_add, ms | as used here, ms | largest difference |")
    print("|---|---|---|---|")
    for count in map(int, arguments.counts.split(",")):
        values = torch.randn(count, WIDTH, device="cuda")
        segments = torch.randint(0, CLUSTERS, (count,), device="cuda")

        def added(values: Tensor = values, segments: Tensor = segments) -> Tensor:
            return values.new_zeros(CLUSTERS, WIDTH).index_add(0, segments, values)

        def used(values: Tensor = values, segments: Tensor = segments) -> Tensor:
            return segment_sum(values, segments, CLUSTERS)

        difference = float((added() - used()).abs().max())
        print(f"| {count:,} | {milliseconds(added):.3f} | {milliseconds(used):.3f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
