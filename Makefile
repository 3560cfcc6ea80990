# The one door: CI and people call these targets.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# The tests flush thousands of small files to the disk: they stay in memory where there is a large one.
IN_MEMORY := $(shell findmnt -fnbo AVAIL,OPTIONS /dev/shm 2>/dev/null | \
  awk '$$1 > 4e9 && !/noexec|nodev/ {print "TMPDIR=/dev/shm"}')

.PHONY: install quickstart test test-engines test-all test-nightly check reference bench scripts pictures wheel clean

install: $(VENV)/.installed  ## a virtual environment with segbench and all it can use

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install  ## 24 trials on drawn shapes, ending in a leaderboard
	$(BIN)/python -m segbench run experiments/quickstart.yaml

test: install  ## the default suite, under three minutes
	$(IN_MEMORY) $(BIN)/python -m pytest -n 2

# Three at a time, Slurm's first: they wait most of theirs, and are the longest.
test-engines: install  ## the slow tests alone, with real Slurm, Ray and Chromium; a busy machine may take its time
	$(IN_MEMORY) $(BIN)/python -m pytest -m 'slow and not gpu' -n 3 --dist loadfile --no-loadscope-reorder --timeout 900 --durations 12 -rs $(PYTEST)

test-all: install  ## everything, with real Slurm, Ray and Chromium where they are installed
	$(IN_MEMORY) $(BIN)/python -m pytest -m 'not gpu'

test-nightly: install  ## 200 kills of workers over one grid, and all other harm
	SEGBENCH_TEST_KILLS=200 $(IN_MEMORY) $(BIN)/python -m pytest -m slow -rP --timeout 3600 tests/launch/test_launch_faults.py

check: install  ## lint, types, cards and experiments
	$(BIN)/ruff format --check segbench tests benchmarks
	$(BIN)/ruff check segbench tests benchmarks
	$(BIN)/pyright
	$(BIN)/segbench check backbones/*.yaml datasets/*.yaml experiments/*.yaml

reference: install  ## docs/reference.md and docs/schema/, from the code's own descriptions
	$(BIN)/segbench schema reference > docs/reference.md
	for kind in backbone dataset experiment; do $(BIN)/segbench schema $$kind > docs/schema/$$kind.json; done

bench: install  ## speed beside torchmetrics, torchvision's references and bare loops; an idle machine, minutes
	$(BIN)/python benchmarks/bench.py --write

scripts:  ## the page's scripts, in one form; needs Node
	npx --yes prettier@3 --print-width 100 --write segbench/report/templates/js/*.js

RUN = results/voc_transfer
pictures: install  ## the README's pictures, from the files of a run; needs Chromium
	$(BIN)/segbench plot $(RUN) --kind heatmap -o docs/images/heatmap.png
	$(BIN)/segbench plot $(RUN) --kind images -o docs/images/images.png
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1280 \
	  --screenshot=docs/images/page.png file://$(CURDIR)/$(RUN)/report.html

wheel: install  ## dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) dist
