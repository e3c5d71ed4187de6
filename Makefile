# Everything a newcomer needs: make demo, make test, make check. Each sets itself up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test check format lint types layers recipe-page

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $(READY)

demo: $(READY)
	$(BIN)/deit-transfer demo
	@echo "To type deit-transfer alone, activate its environment first: . $(BIN)/activate"

test: $(READY)
	$(BIN)/python -m pytest

check: format lint types layers test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

recipe-page: $(READY)
	$(BIN)/python -m deit_transfer.recipe.table

layers: $(READY)
	$(BIN)/lint-imports
