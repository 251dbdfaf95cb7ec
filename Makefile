# Two commands for a fresh machine: `make quickstart` and `make test`. Both make .venv first if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY := digits-quickstart-$(shell date +%Y%m%d-%H%M%S)
PYTEST_ARGS ?=

.PHONY: quickstart test test-cluster lint format clean

quickstart: $(VENV)/.installed
	$(BIN)/snas study run studies/quickstart.yaml --name $(STUDY)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Kills, full disks, servers that are away: real clusters under real faults.
test-cluster: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
