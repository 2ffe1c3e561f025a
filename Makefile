# Two commands: `make quickstart` sets up and trains on real text, `make test` sets up and passes the tests.
# Both set up what is missing and nothing twice; after the first time they need no network. `make install` only sets up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export DS_BUILD_OPS = 0

.PHONY: quickstart install test chaos lint format docs clean

quickstart: $(VENV)/installed
	$(BIN)/sisa-scale quickstart

install: $(VENV)/installed

# Files stay whole, for their fixtures; those with the longest tests come first.
test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests

# A quarter of an hour to an hour: kills, stops, starves and damages 200 runs; another SEED draws others.
chaos: $(VENV)/installed-dev
	$(BIN)/python tools/chaos --scenarios 200 --seed $(or $(SEED),1)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The docs as a site with search: build/site/index.html.
docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build --fail-on-warning --quiet docs build/site

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache

# torch comes first and alone: whatever follows keeps the build that is there. A machine without a GPU gets the CPU
# build: from pip's own sources if they have it, else from PyTorch's index of CPU wheels.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
ifeq ($(HAS_GPU),yes)
	$(PIP) "torch>=2.11,<3"
else
	$(PIP) "$$(sed -n 's/^torch==.*/&+cpu/p' constraints-cpu.txt)" 2>/dev/null \
		|| $(PIP) -c constraints-cpu.txt torch --index-url $(TORCH_CPU_INDEX)
endif
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable ".[dev]"
	touch $@
