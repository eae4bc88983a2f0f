# Set-up, tests and the main jobs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
# One pinned torch, so that set-up does not depend on the day. TORCH=torch==2.11.0 make setup chooses another.
TORCH ?= torch==2.13.0
# Pinned versions of everything else. LOCK= make setup takes the newest instead.
LOCK ?= requirements-lock.txt
BIN := $(VENV)/bin
NATIVE := $(wildcard learn2splat/native/csrc/*) CMakeLists.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu lint bench bench-gpu meta-train train-predict train-resplat leaderboard leaderboard-full faults fuzz kills lock audit wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## make .venv with the package and the developer tools

$(VENV)/.ready: pyproject.toml $(LOCK) $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "learn2splat needs Python 3.11 or newer: PYTHON=/path/to/python3.11 make setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet $(LOCK:%=-c %) "$(TORCH)"
	$(BIN)/pip install --quiet $(LOCK:%=-c %) --editable '.[dev]'
	@touch $@

demo: setup  ## optimise an embedded procedural scene with the learned optimizer and say where the report is
	$(BIN)/l2s optimize --scene procedural:seed=4,views=40,width=320,theme=tabletop --steps 1000

test: setup  ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-gpu: setup  ## what needs a CUDA device: gsplat, optimizers and point operations against the CPU's; skips without one
	$(BIN)/python -m pytest tests -m gpu -rs

bench-gpu: setup  ## milliseconds per step on a CUDA device, 10,000 to 2,000,000 Gaussians
	$(BIN)/python benchmarks/gpu/step.py

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

train-resplat: setup  ## train the recurrent updater on top of the initialiser that ships
	$(BIN)/l2s meta-train experiment=resplat

leaderboard: setup  ## all optimizers on small scenes, under an hour; resumable
	$(BIN)/l2s leaderboard

leaderboard-full: setup  ## up to 30,000 steps and 300 s on larger ones, for days; resumable
	$(BIN)/l2s leaderboard preset=full

faults: setup  ## meet every faulty input with the real commands; writes docs/faults.md
	$(BIN)/python scripts/faults.py --page docs/faults.md

fuzz: setup  ## 100,000 damaged inputs for every reader, at most a minute each
	$(BIN)/python scripts/fuzz.py --inputs 100000 --seconds 60

kills: setup  ## kill the long commands 50 times and compare what they end with
	$(BIN)/python scripts/kills.py --kills 50

lock:  ## pin the newest versions of everything but torch (needs uv)
	sed -n '/^#/p' requirements-lock.txt > .lock
	echo "$(TORCH)" | uv pip compile --quiet --universal --python-version 3.11 --extra dev --constraints /dev/stdin \
		--no-annotate --no-header pyproject.toml | grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' >> .lock
	mv .lock requirements-lock.txt

audit:  ## look up the pinned versions among known vulnerabilities (needs pip-audit and the network)
	{ cat requirements-lock.txt; echo "$(TORCH)"; } | pip-audit --strict --no-deps --disable-pip -r /dev/stdin

wheel: setup  ## build a wheel into dist/ and try it in a fresh environment outside the tree
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	bash scripts/try_wheel.sh dist "$(TORCH)" $(PYTHON)

clean:  ## remove what can be made again
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache $(VENV)/.ready
