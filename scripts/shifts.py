"""How optimizers fare where a run differs from what they were trained or tuned on.

    python scripts/shifts.py --rows shifts.sqlite --optimizers learned-rule --scenes ../shared/scenes/banana \\
        procedural:seed=300000,views=24,width=128

Each shift is run for the optimizers and for `adam-tuned`, chosen without it; the table has the mean difference
of held-out PSNR over scenes, and how many runs failed. Scenes are separated by blanks: a specification has commas.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from learn2splat.data.base import PointCloud, SceneData
from learn2splat.data.sources import load_scene
from learn2splat.eval.methods import method, pinned
from learn2splat.eval.protocol import Budgets, run_task
from learn2splat.eval.store import RowStore
from learn2splat.eval.task import Task
from learn2splat.meta.tasks import crowded
from learn2splat.render.auto import auto_renderer
from learn2splat.render.base import RenderSettings

STEPS = (20, 50, 100, 200, 500)
REFERENCE = "adam-tuned"
NEAR = RenderSettings().near


@dataclass(frozen=True)
class Shift:
    """What a run has that others have not.

    Args:
        change: of the scene.
        task: fields of `Task`.
        enlarged: factor on the size of the photos, of procedural scenes too.
        near: near plane, world units.
        background: behind the Gaussians.
    """

    change: Callable[[SceneData], SceneData] = lambda data: data
    task: dict[str, Any] = field(default_factory=dict)
    enlarged: int = 1
    near: float = NEAR
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)


def four_times(count: int) -> Callable[[SceneData], SceneData]:
    """Four points in the place of each of ``count``."""

    def crowd(data: SceneData) -> SceneData:
        assert data.points is not None
        keep = torch.randperm(len(data.points), generator=torch.Generator().manual_seed(0))[:count]
        points = PointCloud(data.points.positions_world[keep], data.points.colors[keep])
        return replace(data, points=crowded(points, 4 * len(points), torch.Generator().manual_seed(0)))

    return crowd


def scaled(factor: float) -> Callable[[SceneData], SceneData]:
    """The same scene in other units of length."""

    def scale(data: SceneData) -> SceneData:
        poses = data.cameras.cam_from_world.clone()
        poses[:, :3, 3] *= factor
        points = data.points and replace(data.points, positions_world=data.points.positions_world * factor)
        return replace(data, cameras=replace(data.cameras, cam_from_world=poses), points=points)

    return scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--optimizers", default="learned-rule")
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument("--max-size", type=int, default=128)
    parser.add_argument("--max-gaussians", type=int, default=2000)
    arguments = parser.parse_args()
    base = Task("", max_size=arguments.max_size, max_gaussians=arguments.max_gaussians)
    shifts = {
        "none": Shift(),
        "4x Gaussians": Shift(four_times(arguments.max_gaussians), {"max_gaussians": 4 * arguments.max_gaussians}),
        "2x resolution": Shift(enlarged=2),
        "random points": Shift(task={"init": "random"}),
        "world x 0.01": Shift(scaled(0.01), near=0.01 * NEAR),
        "world x 100": Shift(scaled(100.0), near=100 * NEAR),
        "white behind": Shift(background=(1.0, 1.0, 1.0)),
    }
    names = [REFERENCE, *arguments.optimizers.split(",")]
    methods, store = [pinned(method(name)) for name in names], RowStore(arguments.rows)
    for label, shift in shifts.items():
        renderer = auto_renderer("auto", RenderSettings(near=shift.near))
        for name in arguments.scenes:
            name = name.replace(f"width={base.max_size}", f"width={shift.enlarged * base.max_size}")
            max_size = shift.enlarged * base.max_size
            task = replace(base, scene=f"{label}: {name}", max_size=max_size, **shift.task)
            data = shift.change(load_scene(name, max_size=max_size, test_every=task.test_every))
            behind = torch.tensor(shift.background)
            run_task(task, methods, Budgets(steps=STEPS), store, renderer, data, background=behind)
            print("measured", label, name, flush=True)
    rows = store.rows()
    print(f"| shift | optimizer | {' | '.join(map(str, STEPS))} | failed |\n|---|---|{'---|' * (len(STEPS) + 1)}")
    for label in shifts:
        by_step = {(row.task, row.method, row.step): row for row in rows if f'"{label}: ' in row.task}
        tasks = {task for task, _, _ in by_step}
        for name in names[1:]:
            means = [
                sum(by_step[t, name, step].psnr - by_step[t, REFERENCE, step].psnr for t in tasks) / len(tasks)
                for step in STEPS
            ]
            failed = sum(by_step[t, name, STEPS[-1]].outcome != "ok" for t in tasks)
            print(f"| {label} | {name} | {' | '.join(f'{mean:+.2f}' for mean in means)} | {failed} |")


if __name__ == "__main__":
    main()
