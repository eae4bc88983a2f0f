"""The mean of the weights of several trained optimizers of one architecture (model soups, Wortsman et al. 2022).

    python scripts/average.py outputs/meta/learned-rule/optimizer outputs/meta/learned-rule-early/optimizer --out SOUP
    python scripts/average.py SOUP --scale 0.7 --out SHIPPED

Evolution leaves each training with noise of its own in a few dozen constants; half of it goes in the mean of two. What
is left is shrunk towards zero, which is a rule's base, as far as scenes that it was not trained on ask for. The
manifest says how each was made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from learn2splat import checkpoint
from learn2splat.optim.learned.pretrained import KIND, load_pretrained, save_pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="trained optimizers; the last one's manifest leads")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the mean (1)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = [checkpoint.load(Path(folder), KIND) for folder in arguments.folders]
    architecture = found[-1][1]["architecture"]
    if any(config["architecture"] != architecture for _, config in found):
        parser.error("the folders hold optimizers of different architectures")
    mean = {name: torch.stack([t[name] for t, _ in found]).mean(dim=0) * arguments.scale for name in found[-1][0]}
    optimizer = load_pretrained(arguments.folders[-1])
    optimizer.load_state_dict(mean)
    about = found[-1][1]["about"]
    if len(found) > 1:
        about = about | {"averaged_with": [config["about"] for _, config in found[:-1]]}
    if arguments.scale != 1:
        about = about | {"scaled_by": arguments.scale}
    save_pretrained(optimizer, architecture, arguments.out, about)


if __name__ == "__main__":
    main()
