"""An initialiser and a learned optimizer, trained for each other in turn.

    python scripts/cotrain.py --out outputs/meta/cotrain --rounds 2 --both data.procedural=40 \\
        --of-initialiser train.meta_steps=100 --of-optimizer train.meta_steps=100

In each round the initialiser is trained for what the optimizer makes of its Gaussians (experiment=foresight), and then
the optimizer for where the initialiser begins (experiment=refine). Rounds that are through are not repeated; one that
was killed goes on. The last line names both folders, for scripts/foresight.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from learn2splat.config import compose
from learn2splat.optim.learned.pretrained import INITIALISER, KIND
from learn2splat.training import meta_train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--initialiser", default="compact", help="name or folder to begin with")
    parser.add_argument("--optimizer", default="learned-rule", help="name or folder to begin with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    for name, what in (("both", "both trainings"), ("of-initialiser", "one"), ("of-optimizer", "the other")):
        parser.add_argument(f"--{name}", nargs="*", default=[], help=f"overrides of configs/meta_train.yaml for {what}")
    arguments = parser.parse_args()
    initialiser, optimizer = arguments.initialiser, arguments.optimizer
    for number in range(arguments.rounds):
        folder = arguments.out / str(number)
        with_optimizer = ["optimizer@inner=learned-rule", f"inner.name={optimizer}", f"start={initialiser}"]
        initialiser = trained(
            "foresight", folder / INITIALISER, [*with_optimizer, *arguments.both, *arguments.of_initialiser]
        )
        with_initialiser = [f"ranges.initialiser.name={initialiser}", f"start={optimizer}"]
        optimizer = trained("refine", folder / KIND, [*with_initialiser, *arguments.both, *arguments.of_optimizer])
    print(f"{initialiser} {optimizer}")


def trained(experiment: str, out: Path, overrides: Sequence[str]) -> str:
    """The folder of what ``experiment`` has trained in ``out``."""
    config = compose("meta_train", [f"experiment={experiment}", f"out={out}", *overrides])
    return str(meta_train(config, stop=lambda: False))


if __name__ == "__main__":
    main()
