"""How optimizers fare where a run differs from what they were trained or tuned on.

    python scripts/shifts.py --rows shifts.sqlite --optimizers learned-rule --scenes ../shared/scenes/banana \\
        procedural:seed=300000,views=24,width=128

Each shift is run for the optimizers and for `adam-tuned`, chosen without it; the table has the mean difference
of held-out PSNR over scenes, and how many runs failed. Scenes are separated by blanks: a specification has commas.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

STEPS = (20, 50, 100, 200, 500)
REFERENCE = "adam-tuned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--optimizers", default="learned-rule")
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument("--max-size", type=int, default=128)
    parser.add_argument("--max-gaussians", type=int, default=2000)
    arguments = parser.parse_args()

    import torch

    from learn2splat.data.base import PointCloud, SceneData
    from learn2splat.data.sources import load_scene
    from learn2splat.eval.methods import method
    from learn2splat.eval.protocol import Budgets, run_task
    from learn2splat.eval.store import RowStore
    from learn2splat.eval.task import Task
    from learn2splat.meta.tasks import crowded
    from learn2splat.render.auto import auto_renderer
    from learn2splat.render.base import RenderSettings

    def thinned(data: SceneData) -> PointCloud:
        assert data.points is not None
        keep = torch.randperm(len(data.points), generator=torch.Generator().manual_seed(0))[: arguments.max_gaussians]
        return PointCloud(data.points.positions_world[keep], data.points.colors[keep])

    def four_times(data: SceneData) -> SceneData:
        points = thinned(data)
        return replace(data, points=crowded(points, 4 * len(points), torch.Generator().manual_seed(0)))

    def scaled(factor: float) -> Callable[[SceneData], SceneData]:
        def scale(data: SceneData) -> SceneData:
            poses = data.cameras.cam_from_world.clone()
            poses[:, :3, 3] *= factor
            points = (
                None
                if data.points is None
                else replace(data.points, positions_world=data.points.positions_world * factor)
            )
            return replace(data, cameras=replace(data.cameras, cam_from_world=poses), points=points)

        return scale

    same: Callable[[SceneData], SceneData] = lambda data: data  # noqa: E731
    base = Task("", max_size=arguments.max_size, max_gaussians=arguments.max_gaussians)
    near = RenderSettings().near
    shifts: dict[str, tuple[Task, Callable[[SceneData], SceneData], RenderSettings]] = {
        "none": (base, same, RenderSettings()),
        "4x Gaussians": (replace(base, max_gaussians=4 * arguments.max_gaussians), four_times, RenderSettings()),
        "2x resolution": (replace(base, max_size=2 * arguments.max_size), same, RenderSettings()),
        "random points": (replace(base, init="random"), same, RenderSettings()),
        "world x 0.01": (base, scaled(0.01), RenderSettings(near=0.01 * near)),
        "world x 100": (base, scaled(100.0), RenderSettings(near=100 * near)),
    }
    names = [REFERENCE, *arguments.optimizers.split(",")]
    store = RowStore(arguments.rows)
    for label, (task, change, settings) in shifts.items():
        for name in arguments.scenes:
            data = change(load_scene(name, max_size=task.max_size, test_every=task.test_every))
            shifted = replace(task, scene=f"{label}: {name}")
            run_task(
                shifted, [method(n) for n in names], Budgets(steps=STEPS), store, auto_renderer("auto", settings), data
            )
            print("measured", label, name, flush=True)
    rows = store.rows()
    print(f"| shift | optimizer | {' | '.join(map(str, STEPS))} | failed |\n|---|---|{'---|' * (len(STEPS) + 1)}")
    for label in shifts:
        found = {(row.task, row.method, row.step): row for row in rows if f'"{label}: ' in row.task}
        tasks = {task for task, _, _ in found}
        for name in names[1:]:
            means = [
                sum(found[t, name, step].psnr - found[t, REFERENCE, step].psnr for t in tasks) / len(tasks)
                for step in STEPS
            ]
            failed = sum(found[t, name, STEPS[-1]].outcome != "ok" for t in tasks)
            print(f"| {label} | {name} | {' | '.join(f'{mean:+.2f}' for mean in means)} | {failed} |")


if __name__ == "__main__":
    main()
