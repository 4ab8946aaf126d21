.DEFAULT_GOAL := help
.PHONY: help install check format test test-slow hf-common wheel

PYTHON ?= python

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: ## install the package for development, at the tested versions
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

check: ## lint, and compare the formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: ## mend what can be mended, and format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test: ## the tests, but for the slow ones
	$(PYTHON) -m pytest

test-slow: ## the slow tests only
	$(PYTHON) -m pytest -m slow

hf-common: ## transformers' own common tests of our classes (fetches its source distribution once)
	$(PYTHON) scripts/fetch_transformers_tests.py
	$(PYTHON) -m pytest tests/hf_common

wheel: ## build the wheel into dist/, without what an earlier build left
	rm -rf build dist
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .
