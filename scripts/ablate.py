"""What each part of a trained optimizer is worth: the parts are taken away in turn, without another training.

    python scripts/ablate.py --rows ablation.sqlite --optimizer learned-rule
    python scripts/ablate.py --rows ablation.sqlite --optimizer l2s-tiny --tier a

The table has differences to the whole optimizer. `shuffled features` (`shuffled traits`) hands every Gaussian the
network's (the rule's) inputs of another one; gradients, moments and updates stay where they belong.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from compare import TIERS, tasks_of

from learn2splat.eval.methods import method, pinned
from learn2splat.eval.protocol import Budgets, Method, run_task
from learn2splat.eval.statistics import markdown
from learn2splat.eval.store import RowStore
from learn2splat.optim.base import SceneOptimizer
from learn2splat.optim.learned.network import PointTransformer
from learn2splat.optim.learned.rule import Given, LearnedRule
from learn2splat.optim.learned.tiny import LearnedGain
from learn2splat.optim.learned.traits import TRAITS
from learn2splat.render.auto import auto_renderer


class Shuffled(torch.nn.Module):
    """A network that sees each Gaussian with the features of another one."""

    def __init__(self, network: PointTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor, *geometry: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
        return self.network(features[order], *geometry)


def without_weights(rule: LearnedRule) -> None:
    rule.weight.zero_()


def without_feedback(rule: LearnedRule) -> None:
    rule.feedback.zero_()


def without_traits(rule: LearnedRule) -> None:
    rule.power.zero_()


def without_sizes(rule: LearnedRule) -> None:
    rule.power[:, TRAITS.index("size")] = 0.0


def without_loudness(rule: LearnedRule) -> None:
    rule.power[:, TRAITS.index("loudness")] = 0.0


def without_visibility(rule: LearnedRule) -> None:
    rule.power[:, TRAITS.index("visibility")] = 0.0


def shuffled_traits(rule: LearnedRule) -> None:
    gains = rule.gains

    def of_others(given: Given) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        squares, visibility, own = gains(given)
        order = torch.randperm(own.shape[1], generator=torch.Generator().manual_seed(0))
        return squares, visibility, own[:, order]

    rule.gains = of_others  # type: ignore[method-assign]


def without_step_sizes(rule: LearnedRule) -> None:
    rule.log_step.zero_()


def blind_to_the_number_of_views(rule: LearnedRule) -> None:
    rule.log_step.copy_(rule.log_step[:, -1:].expand_as(rule.log_step).clone())


def shuffled_features(gain: LearnedGain) -> None:
    gain.network = Shuffled(gain.network)  # type: ignore[assignment]


def at_full_strength(gain: LearnedGain) -> None:
    gain.strength.fill_(1.0)


CUTS: dict[type, list[Callable[..., None]]] = {
    LearnedRule: [
        without_weights,
        without_feedback,
        without_traits,
        without_sizes,
        without_loudness,
        without_visibility,
        shuffled_traits,
        without_step_sizes,
        blind_to_the_number_of_views,
    ],
    LearnedGain: [shuffled_features, at_full_strength],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS, default="views")
    parser.add_argument("--captures", type=Path, default=Path("../shared/scenes"))
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--optimizer", default="learned-rule", help="name or folder")
    arguments = parser.parse_args()
    whole = pinned(method(arguments.optimizer))
    found = whole.build()
    parts = {"": found} | ({"rule: ": found.rule} if isinstance(found, LearnedGain) else {})
    methods = [whole, pinned(method("adam-tuned"))]
    if isinstance(found, LearnedGain):
        methods.append(pinned(Method("rule alone", lambda: copy.deepcopy(found.rule), whole.digest)))
    for prefix, part in parts.items():
        methods += [
            pinned(Method(prefix + cut.__name__.replace("_", " "), _less(found, prefix, cut), whole.digest))
            for cut in CUTS[type(part)]
        ]
    store, tier = RowStore(arguments.rows), TIERS[arguments.tier]
    for task in tasks_of(tier, arguments.captures):
        run_task(replace(task, seed=0), methods, Budgets(steps=tier.steps), store, auto_renderer())
        print("measured", task.scene, task.views, flush=True)
    names = [entry.name for entry in methods]
    print(f"\nagainst {whole.name}:\n\n{markdown(store.rows(), names, reference=whole.name)}")


def _less(found: SceneOptimizer, prefix: str, cut: Callable[..., None]) -> Callable[[], SceneOptimizer]:
    def build() -> SceneOptimizer:
        other = copy.deepcopy(found)
        with torch.no_grad():
            cut(other.rule if prefix else other)  # type: ignore[attr-defined]
        return other

    return build


if __name__ == "__main__":
    main()
