# Two commands for a fresh machine: `make quickstart` and `make test`. Both make .venv first if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY := digits-quickstart-$(shell date +%Y%m%d-%H%M%S)
# Tests side by side: PYTEST_WORKERS=0 has one process, for a debugger.
PYTEST_WORKERS ?= logical
PYTEST_ARGS ?=
# PIP_ARGS="-c constraints.txt" installs the versions that CI ran with.
PIP_ARGS ?=
# uv takes a sixth of pip's time. It does not read pip's settings: where those name the only index, pip installs.
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(PIP_ARGS) --editable $(1) || \
	{ echo "uv could not install, so pip does, which reads pip.conf"; $(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable $(1); }
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup
# Hundreds of processes import this code: that it is compiled is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-all test-rest lint format constraints clean

quickstart: $(VENV)/.installed
	$(BIN)/snas study run studies/quickstart.yaml --name $(STUDY)

# Before a commit: minutes, on a machine with nothing but Python.
test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# Everything: real clusters under real faults, browsers, benchmarks.
test-all: $(VENV)/.installed-dev
	$(PYTEST) $(PYTEST_ARGS)

# What `make test` has left out, or could not run for want of a tool.
test-rest: $(VENV)/.installed-dev
	$(PYTEST) -m "slow or tool" $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) uv

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(call INSTALL,.)
	$(BIN)/python -m search_core.network.ahead
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(call INSTALL,'.[dev]')
	$(BIN)/python -m search_core.network.ahead float32 float64
	touch $@ $(VENV)/.installed

# Run it when CI has passed with what is installed.
constraints: $(VENV)/.installed-dev
	echo '# The versions that CI ran with, for `pip install -c`; written by `make constraints`.' > constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable >> constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
