# Every target sets itself up: virtual environment, torch for the CPU first, then the package.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check format clean

demo: $(READY)
	$(BIN)/evertune run demo

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Plain `pip install torch` would bring gigabytes of CUDA libraries to a machine without a GPU.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -m pip install --quiet torch==2.13.0
	touch $@

$(READY): pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(READY)-dev: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[dev,quantization,images]'
	touch $@ $(READY)
