# Everything a newcomer needs; each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(FORETELL_CACHE),$(CURDIR)/.cache/foretell)
# Not in the lock: which file it is depends on the machine (CPU, CUDA), and it is large.
TORCH := torch==2.13.0
ARGS ?=

.PHONY: help demo test test-slow test-torch test-postgresql check format lock clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## set up, then show the whole idea on a real model (ARGS="--domain extraction")
	$(BIN)/foretell demo $(ARGS)

test: $(VENV)/.dev ## set up, then the everyday suite with coverage, on the installed package
	FORETELL_CACHE=$(CACHE) $(BIN)/coverage run -m pytest -m "not torch and not slow" $(ARGS)
	$(BIN)/coverage report

test-slow: $(VENV)/.dev ## the demo on the real model, and every block of the README
	FORETELL_CACHE=$(CACHE) $(BIN)/python -m pytest -m slow $(ARGS)

test-torch: $(VENV)/.torch ## set up with torch (large), then the tests that fit with it
	FORETELL_CACHE=$(CACHE) $(BIN)/python -m pytest -m torch $(ARGS)

test-postgresql: $(VENV)/.dev ## the tests that use PostgreSQL, on a real one (installed where Debian has it)
	.ci/postgresql $(BIN)/python -m pytest tests/store \
	  $$(grep -rl --include='test_*.py' FORETELL_TEST_POSTGRESQL tests) $(ARGS)

check: $(VENV)/.dev ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev ## let the formatter do its work
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.dev ## pin all dependencies again, with hashes
	$(BIN)/python -m pip install --quiet uv
	for extra in demo dev; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --extra $$extra pyproject.toml \
	    -o requirements/$$extra.txt; \
	done

clean: ## remove what was set up and cached here
	rm -rf $(VENV) .cache build dist .coverage

# The build back end is pinned with the rest, so nothing is fetched outside the lock.
$(VENV)/.demo: requirements/demo.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.torch: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	touch $@
