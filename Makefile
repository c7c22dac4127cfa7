# Everything on a fresh machine: `make demo` starts the app, `make test` checks it, `make space` prepares a Space.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint space clean

demo: $(VENV)/installed
	$(BIN)/python app.py

# Each process takes about 5 GiB of memory, and files of tests one after the other.
TEST_PROCESSES ?= 2

# One thread in each: tests, servers and a browser share the cores.
test: $(VENV)/installed-tests lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

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
