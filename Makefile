# octvideo: `make help` lists what there is. Every target sets up .venv by itself.
# VENV, PYTHON and DATA can be given: `make test PYTHON=/opt/python3.12/bin/python3`.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
VENV ?= .venv
DATA ?= ../shared/data
# docs/performance.md
export OMP_WAIT_POLICY ?= PASSIVE
# Many tests wait for other processes, so one worker more than cores; a worker takes up to 3 GB. `--dist loadfile` below:
# two workers that each start a SLURM cluster would stop each other's jobs. No new worker for one that died: -x would not
# end the run then, and the test that killed it runs again.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores + 1 : 4)))
FITS := 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))'
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.14 python3.10 python3; do \
	$$p -c $(FITS) 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin

.PHONY: help quickstart test test-full lint typecheck docs format weizmann clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.installed ## make data, train a small Oct-I3D, test it with 30 views, predict a clip
	@$(BIN)/python tools/quickstart.py

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -x -n $(WORKERS) --dist loadfile --max-worker-restart=0 \
	--durations=15

test: $(VENV)/.installed-dev ## the tests, without those marked "full"
	@echo "== tests"
	@$(PYTEST) -m "not full" tests || { echo "error: make test: the tests failed; see above"; exit 1; }

test-full: $(VENV)/.installed-dev ## every test
	@echo "== every test"
	@$(PYTEST) tests || { echo "error: make test-full: the tests failed; see above"; exit 1; }

lint: $(VENV)/.installed-dev ## style
	@echo "== ruff"
	@$(BIN)/ruff check . || { echo "error: make lint: ruff check found faults; see above"; exit 1; }
	@$(BIN)/ruff format --check . || { echo "error: make lint: run 'make format'"; exit 1; }

typecheck: $(VENV)/.installed-dev ## types
	@echo "== mypy"
	@$(BIN)/mypy || { echo "error: make typecheck: mypy found faults; see above"; exit 1; }

docs: $(VENV)/.installed-dev ## the site, in docs/_build/html
	@echo "== sphinx"
	@$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html || { echo "error: make docs: see above"; exit 1; }

format: $(VENV)/.installed-dev ## put the code into shape
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

weizmann: $(VENV)/.installed ## train and test the three Weizmann folds; DATA=folder that has weizmann/
	@$(BIN)/python tools/weizmann.py --data $(DATA)

# Only what these targets made: trained networks elsewhere in output/, and a VENV given by hand, stay.
clean: ## remove .venv, caches, builds and output/quickstart
	rm -rf .venv output/quickstart build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the venv cannot be made, its python goes, so that the next run tries again; nothing else is removed.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 or newer with venv found (on Debian: apt-get install" \
		"python3 python3-venv); install one, or say PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c $(FITS) 2>/dev/null \
		|| { echo "error: PYTHON=$(PYTHON) is not Python 3.10 or newer with venv; give another one"; exit 2; }
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --upgrade pip \
		|| { echo "error: $(VENV) could not be made with $(PYTHON); the reason is above"; rm -f $@; exit 1; }

# The stamps are re-made when setup.py changes.
$(VENV)/.installed: setup.py | $(BIN)/python
	@echo "== installing octvideo and what it needs into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install -q -e . \
		|| { echo "error: 'pip install -e .' failed; the reason is above"; exit 1; }
	@touch $@

$(VENV)/.installed-dev: setup.py | $(BIN)/python
	@echo "== installing octvideo with the development tools into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install -q -e '.[dev,export,app]' \
		|| { echo "error: 'pip install -e .[dev,export,app]' failed; the reason is above"; exit 1; }
	@touch $(VENV)/.installed $@
