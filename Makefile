# octvideo: `make help` lists what there is. Every target sets up .venv by itself.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
VENV ?= .venv
export OMP_WAIT_POLICY ?= PASSIVE # docs/performance.md
DATA ?= ../shared/data
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
CODE := octvideo data_tools demo tools tests benchmarks setup.py

.PHONY: help quickstart test lint typecheck format weizmann clean

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.installed ## make data, train a small Oct-I3D, test it with 30 views, predict a clip
	@$(BIN)/python tools/quickstart.py

test: $(VENV)/.installed-dev ## the whole test suite
	@echo "== tests"
	@$(BIN)/python -m pytest -q --durations=15 tests

lint: $(VENV)/.installed-dev ## style
	@echo "== ruff"
	@$(BIN)/ruff check $(CODE) && $(BIN)/ruff format --check $(CODE)

typecheck: $(VENV)/.installed-dev ## types
	@echo "== mypy"
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## put the code into shape
	@$(BIN)/ruff check --fix $(CODE); $(BIN)/ruff format $(CODE)

weizmann: $(VENV)/.installed ## train and test the three Weizmann folds; DATA=folder that has weizmann/
	@$(BIN)/python tools/weizmann.py --data $(DATA)

clean: ## remove .venv, caches and output/
	rm -rf $(VENV) output build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 found; install one, or say PYTHON=/path/to/python"; exit 2; }
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --upgrade pip \
		|| { echo "error: $(VENV) could not be made with $(PYTHON)"; rm -rf $(VENV); exit 1; }

# The stamps are re-made when setup.py changes.
$(VENV)/.installed: setup.py | $(VENV)/bin/python
	@echo "== installing octvideo and what it needs (a few minutes the first time)"
	@$(BIN)/python -m pip install -q -e . || { echo "error: the installation failed; the reason is above"; exit 1; }
	@touch $@

$(VENV)/.installed-dev: setup.py | $(VENV)/bin/python
	@echo "== installing octvideo with the development tools (a few minutes the first time)"
	@$(BIN)/python -m pip install -q -e '.[dev,export,app]' || { echo "error: the installation failed; the reason is above"; exit 1; }
	@touch $(VENV)/.installed $@
