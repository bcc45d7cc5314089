# `make` alone lists what there is to make.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# They wait as much as they work: three processes keep two cores busy.
UNIT := $(RUN) -m pytest -q -m "not e2e" -n 3 --dist loadfile

.PHONY: help setup demo unit testbed test kubernetes bench check clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(VENV)/ready ## install the tool and what its tests need into .venv

$(VENV)/tool: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; apt-get update -qq && apt-get install -y -qq python3-venv; }
	@echo "installing the tool into $(VENV) (about 15 s)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/ready: $(VENV)/tool
	@echo "installing what the tests need into $(VENV) (about 15 s)"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/tool ## the main job: create, carry, install on an air-gapped host, cross-build, show the result (as root)
	@$(RUN) -m tests.testbed up demo
	@status=0; $(RUN) -m tests.demo || status=$$?; $(RUN) -m tests.testbed down; exit $$status

unit: setup ## the tests that need neither root nor the testbed
	@$(UNIT)

testbed: setup ## bring up what the tests need: the origin registry and the air-gapped hosts (cached; as root)
	@$(RUN) -m tests.testbed up

test: testbed ## all tests, unit and end to end (as root)
	@status=0; $(UNIT) || status=$$?; $(RUN) -m pytest -m e2e || status=$$?; $(RUN) -m tests.testbed down; exit $$status

kubernetes: testbed ## the tests of a builder on Kubernetes, on a real cluster (compiles it first: 10 minutes of a core; as root)
	@status=0; $(RUN) -m pytest -m kubernetes || status=$$?; $(RUN) -m tests.testbed down; exit $$status

bench: setup ## create and install beside their peers; writes docs/performance.md (30 minutes, wants a quiet machine)
	@$(RUN) -m tests.testbed up bench
	@status=0; $(RUN) -m bench || status=$$?; $(RUN) -m tests.testbed down; exit $$status

check: setup ## ruff, mypy --strict, the architecture test
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(RUN) -m pytest -q tests/test_architecture.py

clean: ## remove the testbed's cache and .venv
	@[ ! -x $(RUN) ] || $(RUN) -m tests.testbed clean
	@rm -rf $(VENV)
