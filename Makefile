.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-installs check setup lint ruff format audit docs dist clean
VENV ?= .venv
BIN := $(VENV)/bin
export VENV
# Some containers set it. Each of the test processes, and each command that a test starts, would compile all of dyndet.
unexport PYTHONDONTWRITEBYTECODE
# Each process gets a third of the files; one that is done takes tests from the others. Tests of servers wait a lot, so
# three processes keep two cores busy.
PROCESSES ?= 3
PARALLEL = $(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal --durations 25 --durations-min 4
# Only the files that have such tests, as to import all others takes longer than to search them.
TIMING = $(BIN)/python -m pytest -m timing $$(grep -rl --include 'test_*.py' 'mark\.timing' tests)
# Three processes and their servers on two cores can make an answer late. What failed runs once more with nothing beside
# it; what fails again has failed.
ALONE = echo "These tests failed. They run once more, alone:"; \
	$(BIN)/python -m pytest -q --cache-show cache/lastfailed; \
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none --maxfail 6

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo:  ## Set up, then build, calibrate and serve the demo model, and show what it finds in six images
	@builder/install.sh demo
	@$(BIN)/dyndet demo

check: setup lint  ## Set up, then run ruff, mypy and the quick tests that need no server
	@$(PARALLEL) -m "not server and not slow and not installs"

# mypy uses one core, for a minute if it has no cache: it runs beside the first tests. Nothing runs beside those of times.
test: setup ruff  ## Set up, then run ruff, mypy and all tests, or pytest $(PYTEST_ARGS)
ifdef PYTEST_ARGS
	@$(BIN)/mypy
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	@folder=$$(mktemp -d); trap 'kill $$types 2> /dev/null; rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	export DYNDET_TEST_FOLDER="$$folder"; failed=; again=; \
	$(BIN)/mypy > "$$folder/mypy.txt" 2>&1 & types=$$!; \
	$(PARALLEL) --cache-clear -m "not timing and not whole_line and not installs" || failed=1; \
	wait $$types; typed=$$?; types=; \
	$(TIMING) || failed=1; \
	if [ $$failed ]; then $(ALONE) || again=1; fi; \
	cat "$$folder/mypy.txt"; [ ! $$again ] && [ $$typed -eq 0 ]
endif

test-all: test  ## Everything of test, then the walk from own pictures to a served detector, which takes minutes
	@$(BIN)/python -m pytest -m whole_line

test-installs: setup  ## Install the wheel with one extra at a time, for minutes; PYTHONS="3.10 3.11 3.12" names Pythons
	@$(BIN)/python -m pytest -m installs

setup:  ## Create .venv with everything that the tests need
	@builder/install.sh test

lint: setup ruff  ## Run ruff and mypy
	@$(BIN)/mypy

ruff: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup  ## Let ruff fix and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

audit: $(VENV)/audit/bin/pip-audit  ## List known advisories for the pinned packages; AUDIT_ARGS=--strict fails for unknown ones
	@$(VENV)/audit/bin/python builder/audit.py --pip-audit $< $(AUDIT_ARGS)

# In an environment of its own: dyndet does not need its packages.
$(VENV)/audit/bin/pip-audit: | setup
	@$(BIN)/python -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit==2.10.1"

docs: setup  ## Build the documentation as a site in build/site; warnings are errors
	@$(BIN)/python docs/site/build.py
	@echo "The site is in build/site. Look at it with: python3 -m http.server --bind 127.0.0.1 --directory build/site"

dist: setup  ## Build the sdist and the wheel, and check them; DIST_ARGS=--release fails if they cannot be uploaded
	@$(BIN)/python builder/dist.py $(DIST_ARGS)

clean:  ## Remove all build results and the environment
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
