# `make help` lists the targets. Nothing needs to be installed by hand: python3 and apt are enough.

PYTHON := .venv/bin/python
SOURCES := appliance bundle lab guest-image inventories tests examples

.PHONY: help up down test lint bench soak compat bundle prepare lock

help:  ## Show the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 10

up:  ## Build everything, deploy an appliance in the lab on this host, and run a sandbox
	@/usr/bin/python3 -m lab up

down:  ## Remove the lab: its machines, networks, mounts and files
	@/usr/bin/python3 -m lab down

test: prepare lint up  ## Lint, deploy the lab, and run all tests
	$(PYTHON) -m pytest

lint: prepare  ## ruff, mypy, import-linter, ansible-lint
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m mypy appliance bundle lab guest-image inventories/lab/machines.py
	$(PYTHON) -m mypy tests
	.venv/bin/lint-imports
	PATH=$(CURDIR)/.venv/bin:$$PATH .venv/bin/ansible-lint --offline

bench: prepare  ## Measure creates, pauses and forks against the floors, into build/bench.json
	/usr/bin/python3 guest-image/build.py all
	$(PYTHON) -m tests.benchmarks

soak: prepare  ## Pause and resume one sandbox 200 times, into build/soak.json: some 5 minutes
	/usr/bin/python3 guest-image/build.py all
	$(PYTHON) -m tests.soak

compat: prepare up  ## Run every released client that we serve against the lab's appliance, and print the matrix
	$(PYTHON) -m tests.compat

bundle: prepare  ## Build the offline bundle in build/bundle
	/usr/bin/python3 guest-image/build.py all
	$(PYTHON) -m bundle

prepare:
	@/usr/bin/python3 -m lab prepare --tests

lock: prepare  ## Pin the newest dependencies that pyproject.toml allows
	.venv/bin/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		pyproject.toml --output-file requirements.lock
	.venv/bin/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
