.DEFAULT_GOAL := help
.PHONY: help demo test setup lint format clean
VENV ?= .venv
BIN := $(VENV)/bin
export VENV

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo:  ## Set up, then build, calibrate and serve the demo model, and detect objects in a few images
	@builder/install.sh demo
	@$(BIN)/dyndet demo

test: setup lint  ## Set up, then run ruff, mypy and pytest
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

setup:  ## Create .venv with everything that the tests need
	@builder/install.sh test

lint: setup  ## Run ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## Let ruff fix and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove all build results and the environment
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
