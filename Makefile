# What can be done here; `make help` lists it.

.DEFAULT_GOAL := help
PYTHON ?= python3

# The demonstration needs no torch and no tools, so it has a smaller environment, unless the whole
# one is there already.
ALL_EXTRAS := cpu,torch,postgres,embedded,dashboard,dev
LIGHT_EXTRAS := cpu,embedded
LIGHT := $(if $(wildcard .venv/.installed),.venv,.venv-demo)

# $(call install,ENVIRONMENT,EXTRAS)
define install
	@command -v $(PYTHON) >/dev/null || \
		{ echo "There is no $(PYTHON); say where Python 3.11 or newer is: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python " \
		+ sys.version.split()[0] + "; 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(1)
	@echo "Installing into $(1); the first time this takes some minutes."
	$(if $(findstring torch,$(2)),$(1)/bin/python -m pip install --quiet -c constraints.txt torch)
	$(1)/bin/python -m pip install --quiet -c constraints.txt -e ".[$(2)]"
	@touch $(1)/.installed
endef

.PHONY: help install demo up test check bench migrate

help: ## List what can be done
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

install: .venv/.installed ## Build .venv with everything: all engines, all tools

demo: $(LIGHT)/.installed ## Run examples/prompts.csv through the whole platform and show answers
	$(LIGHT)/bin/python examples/demo.py

up: $(LIGHT)/.installed ## Start the platform on http://127.0.0.1:8080; more with ARGS="--workers 2"
	$(LIGHT)/bin/nexus up $(ARGS)

# Side by side, since most of the time goes into waiting for processes.
test: install ## Run all tests; some of them with ARGS="tests/unit -k batching"
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: install ## Lint, types, layers, and migrations against tables
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python .ci/drift.py

bench: install ## Measure everything, in a quarter of an hour; some with ARGS="platform --quick"
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	.venv/bin/python -m loadtests.bench $(ARGS)
	.venv/bin/python -m loadtests.plots

migrate: $(LIGHT)/.installed ## Bring the database up to date
	$(LIGHT)/bin/nexus migrate

.venv/.installed: pyproject.toml constraints.txt
	$(call install,.venv,$(ALL_EXTRAS))

.venv-demo/.installed: pyproject.toml constraints.txt
	$(call install,.venv-demo,$(LIGHT_EXTRAS))
