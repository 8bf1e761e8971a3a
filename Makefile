PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000

.PHONY: serve test lint bench clean

serve: $(VENV)/serve.stamp
	PORT=$(PORT) $(BIN)/python -m app

test: $(VENV)/test.stamp lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/inference.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/serve.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/serve.stamp tests/setup.sh
	$(BIN)/pip install --quiet --editable .[test]
	bash tests/setup.sh
	touch $@

$(VENV)/bench.stamp: $(VENV)/serve.stamp
	$(BIN)/pip install --quiet --editable .[bench]
	touch $@
