# Set-up, tests and the main jobs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
# One pinned torch, so that set-up does not depend on the day. TORCH=torch==2.11.0 make setup chooses another.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
NATIVE := $(wildcard learn2splat/native/csrc/*) CMakeLists.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench meta-train train-predict train-resplat leaderboard leaderboard-full wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## make .venv with the package and the developer tools

$(VENV)/.ready: pyproject.toml $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "learn2splat needs Python 3.11 or newer: PYTHON=/path/to/python3.11 make setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup  ## optimise an embedded procedural scene with the learned optimizer and say where the report is
	$(BIN)/l2s optimize --scene procedural:seed=4,views=40,width=320,theme=tabletop --steps 1000

test: setup  ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## benchmarks, as ratios to a named peer
	$(BIN)/python benchmarks/rasterizer.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/procedural.py

CAPTURES ?= $(wildcard ../shared/scenes/banana ../shared/scenes/brighton_beach)
comma := ,
empty :=
space := $(empty) $(empty)

meta-train: setup  ## train learned-rule from nothing on procedural scenes and, when present, CAPTURES, on all cores
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node $$(nproc) -m learn2splat.cli meta-train --out outputs/meta/learned-rule experiment=rule \
		"data.captures=[$(subst $(space),$(comma),$(strip $(CAPTURES)))]"

train-predict: setup  ## train the feed-forward initialiser on procedural scenes, for --init predict:outputs/meta/predict/initialiser
	$(BIN)/l2s meta-train experiment=predict

train-resplat: setup  ## train the recurrent updater on top of the initialiser that train-predict left
	$(BIN)/l2s meta-train experiment=resplat

leaderboard: setup  ## all optimizers on small scenes, under an hour; resumable
	$(BIN)/l2s leaderboard

leaderboard-full: setup  ## up to 30,000 steps and 300 s on larger ones, for days; resumable
	$(BIN)/l2s leaderboard preset=full

wheel: setup  ## build a wheel into dist/ and try it in a fresh environment outside the tree
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	bash scripts/try_wheel.sh dist "$(TORCH)" $(PYTHON)

clean:  ## remove what can be made again
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache $(VENV)/.ready
