# `make` alone lists what there is to make. Every recipe runs in the environment VENV, which is made when it is first
# needed; PYTHON is what makes it.
PYTHON ?= python3
VENV    = .venv
BIN     = "$(VENV)/bin"
RUN     = $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help install demo-environment demo test generate check lint types contract drift coverage record pictures build clean

help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' "$(firstword $(MAKEFILE_LIST))"

install: ## make the environment for all that follows, or leave it alone if it still fits
	@$(PYTHON) scripts/environment.py "$(VENV)" dev

demo-environment:
	@$(PYTHON) scripts/environment.py "$(VENV)" sandbox

demo: demo-environment ## open and close sessions before your eyes; no account needed
	@$(RUN) liveavatar.demo

test: install ## run all tests; no account, no network
	$(RUN) pytest

generate: install ## make liveavatar_client/ anew from openapi/liveavatar.yaml
	$(BIN)/python scripts/generate.py

check: lint types contract drift coverage ## all that CI runs: the next five

lint: install ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy --strict and pyright
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(BIN)/python
	$(RUN) mypy tests/typed_usage.py
	$(RUN) pyright --pythonpath $(BIN)/python tests/typed_usage.py

contract: install ## whether the contract is valid and lints clean
	$(RUN) openapi_spec_validator openapi/liveavatar.yaml
	$(BIN)/python scripts/lint_contract.py

drift: install ## whether liveavatar_client/ is what the contract gives
	$(BIN)/python scripts/generate.py --check

coverage: install ## all tests, and that they reach 95 % of the hand-written lines
	$(RUN) pytest --cov --cov-report=term --cov-fail-under=95

record: install ## record the cassettes anew: from the live service if LIVEAVATAR_API_KEY is set, else from the sandbox
	$(BIN)/python scripts/record.py

pictures: install ## docs/cli.svg, from real runs of the command line
	$(BIN)/python scripts/picture.py

build: install ## make the distribution files in dist/
	rm -rf dist
	$(RUN) build

clean: ## remove the environment and everything else that was made
	rm -rf "$(VENV)" build dist .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
