# `make` alone lists what there is to make. Every recipe runs in the environment VENV, which is made when it is first
# needed; PYTHON is what makes it.
PYTHON ?= python3
VENV    = .venv
BIN     = "$(VENV)/bin"
RUN     = $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help install demo-environment demo test generate check lint types contract drift audit coverage mutants floors record bench-environment bench bench-plot pictures docs build release-check clean

help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' "$(firstword $(MAKEFILE_LIST))"

install: ## make the environment for all that follows, or leave it alone if it still fits
	@$(PYTHON) scripts/environment.py "$(VENV)" dev

demo-environment:
	@$(PYTHON) scripts/environment.py "$(VENV)" mock

demo: demo-environment ## open and close sessions before your eyes; no account needed
	@$(RUN) liveavatar.demo

PARALLEL = -n auto --dist worksteal

test: install ## run all tests; no account, no network
	$(RUN) pytest $(PARALLEL)

generate: install ## make liveavatar_client/ anew from openapi/liveavatar.yaml
	$(BIN)/python scripts/generate.py

check: lint types contract drift audit coverage ## all that CI runs: the next six

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

audit: install ## whether a runtime dependency is known to be vulnerable; the SBOM goes to build/sbom.json
	@mkdir -p build
	$(BIN)/python scripts/audit.py --sbom build/sbom.json

coverage: install ## all tests, and that they reach 95 % of the hand-written lines
	$(RUN) pytest $(PARALLEL) --cov --cov-report=term --cov-fail-under=95

record: install ## record the cassettes anew: from the live service if LIVEAVATAR_API_KEY is set, else from the mock server
	$(BIN)/python scripts/record.py

MUTANTS = .venv-mutants/bin/python
mutants: ## put faults into the code that retries and undoes, and see which the tests miss
	@$(PYTHON) scripts/environment.py .venv-mutants mock
	@$(MUTANTS) -m pip install --quiet --disable-pip-version-check mutmut==3.8.1 pytest
	@$(MUTANTS) scripts/mutants.py

FLOORS = .venv-floors/bin/python
BEYOND = audit browser contract docs pipecat schemathesis
floors: install ## the tests with every dependency at the lowest version allowed
	@$(PYTHON) -m venv --clear .venv-floors
	@$(FLOORS) -m pip install --quiet --editable '.[cli,testing]' hypothesis pytest-timeout pytest-cov trustme packaging $$($(BIN)/python scripts/audit.py --floors)
	$(FLOORS) -m pytest $(BEYOND:%=--ignore=tests/test_%.py)

ROUNDS = 5
CYCLES = 2000
BENCH = .venv-bench/bin/python -m

bench-environment:
	@$(PYTHON) scripts/environment.py .venv-bench mock
	@$(BENCH) pip install --quiet --disable-pip-version-check trustme matplotlib
	@$(BENCH) pip install --quiet --disable-pip-version-check pipecat-ai || echo "Pipecat does not install here."

bench: bench-environment ## what the client costs beside its peers (ROUNDS=5 CYCLES=2000)
	@$(BENCH) bench.run --rounds $(ROUNDS) --cycles $(CYCLES)

bench-plot: bench-environment ## the same, into docs/performance.md and its picture
	@mkdir -p build
	@$(BENCH) bench.run --rounds $(ROUNDS) --cycles $(CYCLES) --json build/figures.json
	@$(BENCH) bench.publish build/figures.json

# The service and its other clients. The clients have an environment of their own, with the versions that interop/ pins.
.PHONY: upstream interop live

upstream: install ## compare the contract with the service's own OpenAPI document (SPEC=file or URL)
	@$(BIN)/python scripts/upstream.py $(SPEC)

INTEROP = .venv-interop
WEB_SDK = $(INTEROP)/node/node_modules/@heygen/liveavatar-web-sdk
$(INTEROP)/clients: interop/requirements.txt
	@echo "Creating $(INTEROP). This takes a few minutes, 1 GB of disk and a package index."
	@$(PYTHON) -m venv --clear $(INTEROP)
	@$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --requirement interop/requirements.txt
	@touch $@
$(INTEROP)/ready: $(INTEROP)/clients pyproject.toml
	@$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[testing]'
	@touch $@

interop: $(INTEROP)/ready ## point other people's clients at the mock server and show what works (CLIENT=livekit: one)
	@test -e $(WEB_SDK) || { mkdir -p $(INTEROP)/node && cp interop/package.json $(INTEROP)/node && \
	npm install --prefix $(INTEROP)/node --ignore-scripts --no-audit --no-fund --no-package-lock --silent; } || true
	@$(INTEROP)/bin/python -m interop $(CLIENT)
	@$(INTEROP)/bin/python -m pytest -q tests/test_pipecat.py

live: install ## check what the project assumes about the live service; needs LIVEAVATAR_API_KEY, costs nothing
	@$(BIN)/python scripts/live.py

pictures: install ## docs/cli.svg, from real runs of the command line
	$(BIN)/python scripts/picture.py

docs: install ## build the documentation site into site/, warnings are errors
	rm -rf site
	$(RUN) sphinx -W --keep-going -q -E -d build/doctrees docs site
	@echo "It begins at site/index.html"

build: install ## make the distribution files in dist/
	rm -rf dist
	$(RUN) build

release-check: build ## the built files as a user gets them: metadata, contents, and the demo from a clean environment
	@PYTHON="$(PYTHON)" scripts/release_check.sh "$(VENV)/bin/python"

clean: ## remove the environment and everything else that was made
	rm -rf "$(VENV)" .venv-bench .venv-mutants .venv-floors .venv-interop build dist site .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
