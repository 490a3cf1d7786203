# Nightshift. `make help` lists what there is.

PYTHON ?= python3
BASE   := .venv
TESTS  := .venv-test
SWIFT  := .venv-swift
PIP    := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo up test lint format bench simulate clean

help: ## This list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# --- A machine with only Python 3.11 and make ---------------------------------------------------

$(BASE)/.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Nightshift needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11 …"; exit 1; }
	@test -d $(BASE) || $(PYTHON) -m venv $(BASE)
	@echo "Installing the light base into $(BASE) (about a minute, once) …"
	@$(BASE)/bin/python $(PIP) --editable '.[espeak]'
	@touch $@

demo: $(BASE)/.done ## Run a real separation job, everything embedded (FILE=episode.mp3 for one's own)
	@$(BASE)/bin/nightshift demo $(if $(FILE),"$(FILE)")

up: $(BASE)/.done ## Run everything on this machine: API, web page, scheduler, worker
	@$(BASE)/bin/nightshift up

# --- Tests --------------------------------------------------------------------------------------

$(TESTS)/.done: pyproject.toml
	@test -d $(TESTS) || $(PYTHON) -m venv $(TESTS)
	@echo "Installing what the tests need into $(TESTS), torch among it (minutes, once) …"
	@$(TESTS)/bin/python $(PIP) --editable '.[espeak,models,dev]'
	@touch $@

# An S3 server that enforces signatures; apart, because its needs clash with ours.
$(SWIFT)/.done:
	@test -d $(SWIFT) || $(PYTHON) -m venv $(SWIFT)
	@$(SWIFT)/bin/python $(PIP) 'swift>=2.35,<3' setuptools
	@touch $@

# Two processes: much of the time goes by waiting for servers and leases. Each module stays in one of them.
test: $(TESTS)/.done $(SWIFT)/.done ## Install what the tests need and run them all (ARGS="-k name" to choose)
	@$(TESTS)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(TESTS)/.done ## Formatting, linting, types, imports
	$(TESTS)/bin/ruff format --check .
	$(TESTS)/bin/ruff check .
	$(TESTS)/bin/mypy
	$(TESTS)/bin/lint-imports

format: $(TESTS)/.done ## Put the code into its form
	$(TESTS)/bin/ruff format .
	$(TESTS)/bin/ruff check --fix .

bench: $(TESTS)/.done ## Measure the ratios of bench/, each against its baseline in the same run
	@$(TESTS)/bin/python -m bench

simulate: $(TESTS)/.done ## Play a week of nights through: 5,000 episodes, four cards, kills; status 1 where a rule breaks
	@$(TESTS)/bin/python -m bench.nights $(ARGS)

clean: ## Remove what make has made
	rm -rf $(BASE) $(TESTS) $(SWIFT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
