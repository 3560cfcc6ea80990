# The one door: CI and people call these targets and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install quickstart test test-all check wheel clean

install: $(VENV)/.installed  ## a virtual environment with segbench and all it can use

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install  ## 24 trials on drawn shapes, ending in a leaderboard
	$(BIN)/python -m segbench run experiments/quickstart.yaml

test: install  ## the default suite, under three minutes
	$(BIN)/python -m pytest -n 2

test-all: install  ## everything, with real Slurm, Ray and Chromium where they are installed
	$(BIN)/python -m pytest -m 'not gpu and not network'

check: install  ## lint, types, cards and experiments
	$(BIN)/ruff format --check segbench tests benchmarks
	$(BIN)/ruff check segbench tests benchmarks
	$(BIN)/pyright
	$(BIN)/segbench check backbones/*.yaml datasets/*.yaml experiments/*.yaml

wheel: install  ## dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) dist
