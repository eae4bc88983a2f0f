"""What a step costs on a GPU: rendering and update, against fused Adam and gsplat's SelectiveAdam in the same run.

    python benchmarks/gpu/step.py --counts 10000,100000,1000000,2000000 --trainees l2s-tiny,l2s-base

Milliseconds with the device synchronised around each part, median of `STEPS` steps at 1 view of SIDE x SIDE and SH 3;
optimizers of learn2splat go through its inner loop, as in a short run and compiled as in a long one, the two others
through a bare loop around the same renderer and loss. Bytes are those of the state per Gaussian. Written without a GPU
at hand.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rasterizer import orbit, synthetic_scene

from learn2splat.config import build, compose
from learn2splat.data.base import SceneData
from learn2splat.data.resize import PhotoStack
from learn2splat.data.views import RandomViews
from learn2splat.losses import PhotometricLoss
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.fusing import LONG
from learn2splat.render.gsplat import GsplatRenderer
from learn2splat.rollout import Rollout
from learn2splat.rollout_state import RolloutState
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene_loss import SceneLoss

VIEWS, SIDE, STEPS, WARM = 8, 1024, 50, 20
RATES = {"means": 1.6e-4, "log_scales": 5e-3, "quats": 1e-3, "logit_opacities": 5e-2, "sh": 2.5e-3}


def task() -> SceneLoss:
    """Noise as photos: their content does not matter here."""
    draw = torch.Generator().manual_seed(0)
    photos = PhotoStack(tuple(torch.randint(0, 256, (SIDE, SIDE, 3), generator=draw).byte() for _ in range(VIEWS)))
    names, views = [str(view) for view in range(VIEWS)], list(range(VIEWS))
    data = SceneData("noise", orbit(VIEWS, SIDE, SIDE), photos, names, None, views, [])
    return SceneLoss(data, GsplatRenderer(), PhotometricLoss(), device="cuda")


def ours(loss: SceneLoss, scene: GaussianScene, optimizer: SceneOptimizer, horizon: int) -> tuple[float, float, float]:
    """Milliseconds of rendering and of the update, and bytes of state per Gaussian."""
    sampler = RandomViews(loss.cameras, list(range(VIEWS)), 1, seed=0)
    state = RolloutState.start(scene, optimizer)
    run = Rollout(loss, list(range(VIEWS)), optimizer, sampler, state, horizon)
    records = list(run.run(WARM + STEPS))[WARM:]
    kept = sum(tensor.numel() * tensor.element_size() for tensor in run.state.optimizer.rows.values())
    parts = [[getattr(record, f"seconds_{part}") for record in records] for part in ("render", "update")]
    return 1e3 * median(parts[0]), 1e3 * median(parts[1]), kept / len(scene)


def bare(loss: SceneLoss, scene: GaussianScene, make: Callable[..., torch.optim.Optimizer], selective: bool) -> float:
    """Milliseconds of the update of an optimizer of somebody else."""
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in scene.items()}
    optimizer = make([{"params": [tensor], "lr": RATES[name]} for name, tensor in parameters.items()])
    taken = []
    for step in range(WARM + STEPS):
        at = GaussianScene(*(tensor.detach() for tensor in parameters.values()))
        found = loss.gradient(at, [step % VIEWS])
        for parameter, grad in zip(parameters.values(), found.grads.tensors(), strict=True):
            parameter.grad = grad
        torch.cuda.synchronize()
        begin = time.perf_counter()
        optimizer.step(*([found.visible] if selective else []))
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return 1e3 * median(taken[WARM:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="10000,100000,1000000,2000000")
    parser.add_argument("--optimizers", default="adam,adam-tuned,l2s")
    parser.add_argument("--trainees", default="l2s-tiny,l2s-base")
    arguments = parser.parse_args()
    from gsplat import SelectiveAdam

    optimizers = {n: build(compose("optimize", [f"optimizer={n}"]).optimizer) for n in arguments.optimizers.split(",")}
    for name in filter(None, arguments.trainees.split(",")):
        optimizers[name] = build(compose("meta_train", [f"trainee={name}"]).trainee).eval()
    loss = task()
    print("| Gaussians | optimizer | render, ms | update, ms | step / adam | bytes per Gaussian | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for count in map(int, arguments.counts.split(",")):
        scene, first = synthetic_scene(count).to("cuda"), None
        runs = [(name, optimizer, steps) for name, optimizer in optimizers.items() for steps in (WARM + STEPS, LONG)]
        for name, optimizer, horizon in runs:
            torch.cuda.reset_peak_memory_stats()
            render, update, kept = ours(loss, scene, optimizer, horizon)
            first = first or render + update
            name += ", compiled" if horizon == LONG else ""
            peak = torch.cuda.max_memory_allocated() / 2**20
            ratio = f"{(render + update) / first:.2f}"
            print(
                f"| {count:,} | {name} | {render:.2f} | {update:.2f} | {ratio} | {kept:.0f} | {peak:,.0f} |", flush=True
            )
        fused = bare(loss, scene, lambda groups: torch.optim.Adam(groups, fused=True), selective=False)
        print(f"| {count:,} | torch.optim.Adam, fused | | {fused:.2f} | | | |", flush=True)
        chosen = bare(loss, scene, lambda groups: SelectiveAdam(groups, eps=1e-15, betas=(0.9, 0.999)), selective=True)
        print(f"| {count:,} | gsplat SelectiveAdam | | {chosen:.2f} | | | |", flush=True)


if __name__ == "__main__":
    main()
