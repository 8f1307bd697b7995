# All that a new machine needs is Python ≥ 3.11; the rest is installed into .venv, and once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APP := $(VENV)/.app-installed
DEV := $(VENV)/.dev-installed
BENCH := $(VENV)/.bench-installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo up test lint format browser bench lock clean

demo: $(APP)
	$(BIN)/seigh demo $(DEMO_ARGS)

up: $(APP)
	$(BIN)/seigh up $(UP_ARGS)

# As many tests at a time as there are cores, each with one thread: threads that wait for each other lose most
# where others want the cores too. Those of a file share what they have started.
test: lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(TEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The browser test drives a real Chromium: the one that is there, or else the system's package.
browser: $(DEV)
	$(BIN)/python -m tests.browser.chromium

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "SEIGH Lab needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11 again." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(APP): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Setting up $(VENV): PyTorch and its libraries are several GB, so this takes minutes, once."
	$(INSTALL) -e .
	@touch $@

$(DEV): $(APP)
	$(INSTALL) -e '.[dev]'
	@touch $@

$(BENCH): $(APP)
	$(INSTALL) -e '.[bench]'
	@touch $@

# Our methods beside every existing code; benchmarks/README.md says what is measured.
bench: $(BENCH)
	$(BIN)/python -m benchmarks.spectra $(BENCH_ARGS)

# The pinned versions, for every platform and Python ≥ 3.11 at once.
lock: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra bench --no-annotate --no-header \
		pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) .seigh
