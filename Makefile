.DEFAULT_GOAL := help
.PHONY: help install check format typecheck docs test test-multiprocess test-all test-slow coverage fuzz hf-common demo-test check-long check-all wheel release-check torture check-deps

PYTHON ?= python

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: ## install the package for development, at the tested versions
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

check: typecheck ## lint, check the formatting and the types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: ## fix lint errors if possible, and format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck: ## check the types, in strict mode for model/
	$(PYTHON) -m mypy

docs: ## build the documentation as a site in site/, with warnings as errors
	$(PYTHON) -m pip install -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build

test: ## run the fast tests (about three minutes), without tests that start processes
	$(PYTHON) -m pytest

test-multiprocess: ## run the tests that start processes
	$(PYTHON) -m pytest -m "multiprocess and not slow"

test-all: ## run all tests except the slow tests
	$(PYTHON) -m pytest -m "not slow"

test-slow: ## run only the slow tests
	$(PYTHON) -m pytest -m slow

coverage: ## run all tests except the slow tests, and report the lines without coverage
	$(PYTHON) -m pytest -m "not slow" --cov --cov-report=term

fuzz: ## make 20,000 hostile calls, and print a table of what came of them (about 20 minutes)
	$(PYTHON) -m tests.fuzz --cases 20000

torture: ## kill commands at random moments and fill their disks, for SECONDS seconds (600), and run them again
	$(PYTHON) -m tests.torture --seconds $(or $(SECONDS),600)

check-deps: ## look for known vulnerabilities in the tested versions, with pip-audit (asks a database on the network)
	$(PYTHON) -m pip install --quiet pip-audit==2.10.1
	$(PYTHON) scripts/dev/check_deps.py

hf-common: ## run the common tests of transformers on our classes (downloads its source distribution once)
	$(PYTHON) scripts/dev/fetch_transformers_tests.py
	$(PYTHON) -m pytest --import-mode=prepend tests/hf_common

demo-test: ## test the demo in a real browser (installs Chromium with apt-get if it is missing)
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev,demo]" playwright axe-playwright-python
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { apt-get update && apt-get install -y --no-install-recommends chromium; }
	DINOV3SEG_BROWSER=required $(PYTHON) -m pytest tests/demo/test_browser.py  # `make test` runs the others

check-long: docs test-multiprocess hf-common demo-test ## run the other checks of CI, after `make check test`

check-all: check check-long ## run all checks of CI except `make test`

wheel: ## build the wheel in dist/, after removing earlier builds
	rm -rf build dist
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .

release-check: ## build wheel and sdist, check both, run the quick start from the wheel on Python 3.10 to 3.13
	$(PYTHON) -m pip install -c constraints.txt build tox twine
	rm -rf build dist
	$(PYTHON) -m build
	$(PYTHON) -m twine check --strict dist/*
	$(PYTHON) -m tox run --installpkg "$$(echo dist/*.whl)"
