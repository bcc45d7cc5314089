# `make` alone lists what there is to make.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help setup testbed demo test bench check clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(VENV)/ready ## install the tool and what its tests need into .venv

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; apt-get update -qq && apt-get install -y -qq python3-venv; }
	@echo "installing the tool and what its tests need into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

testbed: setup ## bring up the origin registry and build the air-gapped hosts (cached; as root)
	@$(RUN) -m tests.testbed up

demo: testbed ## the main job: create, carry, install on an air-gapped host, cross-build, show the result
	@status=0; $(RUN) -m tests.demo || status=$$?; $(RUN) -m tests.testbed down; exit $$status

test: testbed ## all tests, unit and end to end
	@status=0; $(RUN) -m pytest || status=$$?; $(RUN) -m tests.testbed down; exit $$status

bench: testbed ## create and install beside their peers; writes docs/performance.md (30 minutes, wants a quiet machine)
	@status=0; $(RUN) -m bench || status=$$?; $(RUN) -m tests.testbed down; exit $$status

check: setup ## ruff, mypy --strict, the architecture test
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(RUN) -m pytest -q tests/test_architecture.py

clean: ## remove the testbed's cache and .venv
	@[ ! -x $(RUN) ] || $(RUN) -m tests.testbed clean
	@rm -rf $(VENV)
