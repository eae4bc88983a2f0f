"""Time to make procedural scenes: each theme at 20 views of 128 px, then growth with views and with pixels."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from learn2splat.data.procedural import ProceduralSpec, make_scene
from learn2splat.data.procedural.spec import THEMES


def seconds(spec: ProceduralSpec, repeats: int) -> float:
    """The fastest of ``repeats`` runs in seconds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        make_scene(spec)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    base = ProceduralSpec(seed=options.seed)
    make_scene(replace(base, views=3, width=32))  # imports and first-use costs
    for theme in sum(THEMES.values(), ()):
        print(f"{theme:>14}  {seconds(replace(base, theme=theme), options.repeats):6.2f} s")
    for views in (5, 20, 80):
        spec = replace(base, theme="tabletop", views=views)
        print(f"{views:>8} views  {seconds(spec, options.repeats):6.2f} s")
    for width in (64, 128, 256, 512):
        spec = replace(base, theme="tabletop", width=width)
        print(f"{width:>5} px wide  {seconds(spec, options.repeats):6.2f} s")


if __name__ == "__main__":
    main()
