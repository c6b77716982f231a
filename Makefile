# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Nothing is assumed but Python >= 3.10 with pip; the virtual environment in $(VENV) is made on first use.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: demo test lint setup clean

demo: setup  ## Train a small tokenizer on real photographs and open its report
	$(BIN)/tok4d demo -o demo-out

test: setup  ## All tests, file by file on up to four processes
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: setup  ## Style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	touch $@

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache
