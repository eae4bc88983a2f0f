"""`l2s leaderboard` as a Hydra application, so that a launcher can sweep its shards over processes or a cluster.

    pip install 'learn2splat[cluster]'
    python scripts/leaderboard.py --multirun preset=full shard=0/4,1/4,2/4,3/4 hydra/launcher=submitit_slurm
    l2s leaderboard preset=full

Each job measures its share of the scenes into files of its own; the last line puts them together and writes the pages.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from learn2splat.board import Board
from learn2splat.config import config_dir


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="leaderboard")
def main(config: DictConfig) -> None:
    board = Board(config, lambda line: print(line, flush=True))
    board.measure()
    print(board.write() or board.folder)


if __name__ == "__main__":
    main()
