.DEFAULT_GOAL := help
.PHONY: help install check format test test-slow hf-common demo-test wheel

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
	$(PYTHON) scripts/dev/fetch_transformers_tests.py
	$(PYTHON) -m pytest tests/hf_common

wheel: ## build the wheel into dist/, without what an earlier build left
	rm -rf build dist
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .

demo-test: ## the demo in a real browser (installs Chromium with apt-get where it is missing)
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev,demo]" playwright
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { apt-get update && apt-get install -y --no-install-recommends chromium; }
	DINOV3SEG_BROWSER=required $(PYTHON) -m pytest tests/test_demo.py tests/test_demo_page.py tests/test_demo_browser.py
