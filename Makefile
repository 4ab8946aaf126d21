.DEFAULT_GOAL := help
.PHONY: help install check format typecheck test test-multiprocess test-all test-slow coverage hf-common demo-test check-all wheel

PYTHON ?= python

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: ## install the package for development, at the tested versions
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

check: ## lint, and compare the formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: ## mend what can be mended, and format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck: ## check the types, strictly in model/
	$(PYTHON) -m mypy

test: ## the tests, in about three minutes; not the slow ones, and none that start processes
	$(PYTHON) -m pytest

test-multiprocess: ## the tests that start processes of their own
	$(PYTHON) -m pytest -m "multiprocess and not slow"

test-all: ## all tests but the slow ones
	$(PYTHON) -m pytest -m "not slow"

test-slow: ## the slow tests only
	$(PYTHON) -m pytest -m slow

coverage: ## all tests but the slow ones, and the lines that they miss
	$(PYTHON) -m pytest -m "not slow" --cov --cov-report=term

hf-common: ## transformers' own common tests of our classes (fetches its source distribution once)
	$(PYTHON) scripts/dev/fetch_transformers_tests.py
	$(PYTHON) -m pytest --import-mode=prepend tests/hf_common

demo-test: ## the demo in a real browser (installs Chromium with apt-get where it is missing)
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev,demo]" playwright
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { apt-get update && apt-get install -y --no-install-recommends chromium; }
	DINOV3SEG_BROWSER=required $(PYTHON) -m pytest tests/demo

check-all: check typecheck test-multiprocess hf-common demo-test ## what CI runs beside `make test`

wheel: ## build the wheel into dist/, without what an earlier build left
	rm -rf build dist
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .
