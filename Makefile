# Everything on a fresh machine: `make demo` starts the app, `make test` checks it, `make space` prepares a Space.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint space clean

demo: $(VENV)/installed
	$(BIN)/python app.py

# Tests, servers and a browser share the cores: threads are not to wait for each other in a long busy loop.
test: $(VENV)/installed-tests lint
	GOMP_SPINCOUNT=3000 $(BIN)/python -m pytest

lint: $(VENV)/installed-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/installed-tests: $(VENV)/installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement tests/requirements.txt
	touch $@

# A folder that can be pushed as a Hugging Face Space.
SPACE := build/space

space:
	$(PYTHON) demo/space.py $(SPACE)

clean:
	rm -rf $(VENV) build
