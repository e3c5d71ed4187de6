# Everything a newcomer needs: make demo, make test, make check. Each sets itself up first.
# make demo CPU=1 takes PyTorch for CPUs alone, without the gigabytes of CUDA.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CPU ?=
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: setup demo test test-both check format lint types layers dependencies recipe-page

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
ifeq ($(CPU),1)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --index-url $(CPU_INDEX) torch torchvision
else
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		echo "No nvidia-smi here: this downloads PyTorch with CUDA, several GB; make demo CPU=1 takes the small one"; \
	fi
endif
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $(READY)

demo: $(READY)
	$(BIN)/deit-transfer demo
	@echo "To type deit-transfer alone, activate its environment first: . $(BIN)/activate"

test: $(READY)
	$(BIN)/python -m pytest

# Twice: with a processor that computes in bf16 and with one that does not, whatever this one is.
test-both: $(READY)
	DEIT_TRANSFER_CPUINFO=$(CURDIR)/tests/cpuinfo/without-bf16 $(BIN)/python -m pytest -n 2 --dist loadfile
	DEIT_TRANSFER_CPUINFO=$(CURDIR)/tests/cpuinfo/with-bf16 $(BIN)/python -m pytest -n 2 --dist loadfile

check: format lint types layers dependencies test-both

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

# Every import is a declared dependency, and every dependency is imported.
dependencies: $(READY)
	$(BIN)/deptry .
