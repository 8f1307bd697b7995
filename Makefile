# All that a new machine needs is Python ≥ 3.11; the rest is installed into .venv, and once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APP := $(VENV)/.app-installed
DEV := $(VENV)/.dev-installed
BENCH := $(VENV)/.bench-installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo up test style types tests lint format browser docs bench lock audit digests clean

demo: $(APP)
	$(BIN)/seigh demo $(DEMO_ARGS)

up: $(APP)
	$(BIN)/seigh up $(UP_ARGS)

# Two files of tests for each core at a time, as half of them mostly wait for workers and browsers; each with one
# thread: threads that wait for each other lose most where others want the cores too. Those of a file share what
# they have started.
# mypy is one process, so it runs beside them. Processes are started by the hundred, and compile our code once only
# where they may keep what they have compiled.
test tests: export PYTHONDONTWRITEBYTECODE :=
test: style browser
	@$(MAKE) --no-print-directory --jobs 2 types tests

tests: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile \
		--numprocesses $$($(BIN)/python -c 'import os; print(2 * (os.cpu_count() or 2))') \
		--no-loadscope-reorder $(TEST_ARGS)

lint: style types

style: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The browser test drives a real Chromium: the one that is there, or else the system's package.
browser: $(DEV)
	$(BIN)/python -m tests.browser.chromium

# The pages of docs/, to docs/_build/html; the tutorial runs for them. A warning is an error.
docs: $(DEV)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "SEIGH Lab needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11 again." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Without an NVIDIA GPU, PyTorch's own index has wheels without CUDA's libraries, which are several GB smaller.
# Where that index cannot be reached, or has no such wheel, the usual ones are installed.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
$(APP): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Setting up $(VENV): PyTorch and its libraries are up to several GB, so this takes minutes, once."
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(INSTALL) --retries 0 --timeout 15 --no-deps --index-url $(TORCH_CPU_INDEX) torch torchvision 2>/dev/null \
			|| echo "No wheels for CPUs alone are at hand; the usual ones are installed."; \
	fi
	$(INSTALL) -e '.[lab]'
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

# The pinned versions, for every platform and Python ≥ 3.11 at once; and their hashes, which images are built with.
lock: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra lab --extra dev --extra bench \
		--no-annotate --no-header \
		pyproject.toml --output-file constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra lab --extra hf \
		--no-annotate --no-header \
		--constraint constraints.txt $$(sed -nE 's/^($(TORCH_FAMILY))==.*/--no-emit-package \1/p' constraints.txt) \
		pyproject.toml --output-file requirements.lock

# PyTorch and what it brings along: which of its wheels fit depends on the machine, so they have no hashes here.
TORCH_FAMILY := torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+

# Whether a version that is pinned has a known vulnerability.
audit: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip_audit --requirement requirements.lock --require-hashes --disable-pip

# The digests of the images, as lines for .env: with them, an installation starts the same images each time.
digests:
	@for each in PYTHON_IMAGE=python:3.12-slim-bookworm POSTGRES_IMAGE=postgres:16-bookworm REDIS_IMAGE=redis:7-bookworm; do \
		digest=$$(docker buildx imagetools inspect "$${each#*=}" --format '{{.Manifest.Digest}}') || exit 1; \
		echo "SEIGH_$$each@$$digest"; \
	done

clean:
	rm -rf $(VENV) .seigh
