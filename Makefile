# Each target makes what it needs: on a fresh machine `make demo` or `make test` is the only command.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# pip takes --no-input from here too, so nothing ever waits for an answer.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# Every test uses one thread, so each core takes a share of the files.
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test check format install clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## train on handwritten digits by backprop and by synthetic gradients, side by side
	@$(BIN)/python tasks/mnist/demo.py

test: $(INSTALLED)  ## run the tests
	@$(BIN)/python -m pytest -q $(PARALLEL)

check: $(INSTALLED)  ## lint, format, types and tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy tasks/mnist
	@$(BIN)/mypy tasks/copy/main.py
	@$(BIN)/mypy tasks/word_language_model/main.py tasks/word_language_model/generate.py
	@$(BIN)/mypy --explicit-package-bases tasks/gan tasks/vunet \
		tasks/copy/stream.py tasks/copy/lessons.py tasks/word_language_model/stream.py
	@$(BIN)/python -m pytest -q $(PARALLEL)

format: $(INSTALLED)  ## put the code into the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

install: $(INSTALLED)  ## make .venv and install the package into it, once

# The pins go in before the package: what its ranges ask for is then there already, and pip fetches
# no second torch. Without build isolation for the same reason: setuptools is among the pins.
$(INSTALLED): requirements.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "dni needs Python 3.10 or newer; try: make PYTHON=python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || \
		{ echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV) (once, a few minutes)"
	@$(BIN)/python -m pip install -qq -r requirements.txt
	@$(BIN)/python -m pip install -qq --no-build-isolation -e '.[vision,tasks,trainer,dev]'
	@touch $@

clean:  ## remove .venv, caches and everything a run or build wrote (not downloaded data)
	rm -rf $(VENV) build dist runs *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
