# make demo       simulate 64 galaxies, fit them, compare with the truth
# make test       run all tests except the slow ones
# make slow       run the slow tests
# make lint       check style, types and import layers
# make format     format the code
# make docs       build the documentation in docs/_build/html
# make linkcheck  check the documentation's links to other sites
# make clean      remove everything that these create, including the environment
#
# Each creates .venv first if it is missing, and installs again if pyproject.toml has changed.
# PYTHON=/path/to/python selects the interpreter, JOBS the number of test processes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test slow lint format docs linkcheck clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

install: $(STAMP)

# The first python3 that is new enough and can make an environment.
$(BIN)/python:
	@python=; \
	for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do \
	    if $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	        2>/dev/null; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "no Python >= 3.11 with the venv module was found: install one (on Debian and" \
	         "Ubuntu also python3-venv) or say make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev,docs]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hybridfit
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

linkcheck: $(STAMP)
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/linkcheck

clean:
	rm -rf $(VENV) build dist demo-out docs/_build docs/reference/_generated \
	    .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
