# `make` alone lists the targets. Recipes run in the virtual environment VENV, which PYTHON creates on first use.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
RUN     = $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help install demo test scripts retest generate check lint prose types contract drift audit coverage mutants floors newest pythons constraints soak record bench-environment bench bench-plot pictures docs build release-check clean

help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' "$(firstword $(MAKEFILE_LIST))"

# An environment holds a stamp. It is rebuilt when pyproject.toml or constraints.txt is newer than the stamp, and when
# the name of the stamp changes: with another Python, or after the checkout has moved.
STAMP := made-$(shell { $(PYTHON) --version; pwd; } 2>&1 | cksum | cut -d ' ' -f 1)

# $(call environment,PACKAGES) creates the environment whose stamp is the target.
define environment
@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is required; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.13")'
@echo "Installing packages in $(@D). This can take a minute."
@$(PYTHON) -m venv --clear $(@D)
@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(1)
@touch $@
endef

install: $(VENV)/$(STAMP) ## create the development environment, unless it is up to date
$(VENV)/$(STAMP): pyproject.toml constraints.txt
	$(call environment,--editable '.[dev]')

# The demo does not wait for the development environment, but uses it if it is there.
DEMO := $(patsubst %/$(STAMP),%,$(firstword $(wildcard $(VENV)/$(STAMP)) .venv-demo/$(STAMP)))
.venv-demo/$(STAMP): pyproject.toml constraints.txt
	$(call environment,--editable '.[mock]')

demo: $(DEMO)/$(STAMP) ## run a demo that opens and closes sessions; no account needed
	@$(DEMO)/bin/python -m liveavatar.demo

# The tests' processes read compiled modules in place of compiling them again, and have the usual settings.
unexport PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED

# Most tests wait for a socket or a process, so there are three times as many workers as processors.
WORKERS  = $(shell $(PYTHON) -c "import os; print(3 * (os.cpu_count() or 1))")
PARALLEL = -n $(WORKERS) --dist worksteal

test: install ## run the tests: about 3 minutes on 2 cores; no account and no network needed
	@echo "Running the tests. On 2 free cores this takes about 3 minutes."
	$(RUN) pytest $(PARALLEL) -m "not scripts and not site and not types" -p no:schemathesis --ignore tests/test_schemathesis.py
	@echo "Not run: the tests of scripts/, of the documentation's site and types, and schemathesis. make scripts docs types"
	@echo "contract runs these; make coverage runs all."

scripts: install ## run the tests of the project's own tools: the generator, make upstream and make live
	$(RUN) pytest $(PARALLEL) -m scripts

retest: install ## run the tests that failed in the last run again, one at a time
	$(RUN) pytest --last-failed --last-failed-no-failures none

generate: install ## generate liveavatar_client/ from openapi/liveavatar.yaml
	$(BIN)/python scripts/generate.py

check: lint types contract drift audit coverage ## run the next six targets, as CI does

lint: install prose ## check style, format, spelling, words, YAML and workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/yamllint --strict .
	$(BIN)/zizmor --offline --quiet .github

# The words that our sentences do without, each with its replacement. `# codespell:ignore WORD` allows one on its line.
PROSE = README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs examples openapi scripts bench wrapper
prose: install ## check the documentation and docstrings for the words in scripts/prose.txt
	$(BIN)/codespell --dictionary scripts/prose.txt --regex "(?:are|is|was) to be|[\w'-]+" --skip '*.svg,*cassettes*,scripts/prose.txt' $(PROSE)

types: install ## check types with mypy --strict and pyright, also in the documentation's examples
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(BIN)/python
	$(RUN) mypy tests/typed_usage.py
	$(RUN) pyright --pythonpath $(BIN)/python tests/typed_usage.py
	$(RUN) pytest -q -m types tests/test_docs.py

contract: install ## check that the contract is valid and passes its linter, and the mock server against it
	$(RUN) openapi_spec_validator openapi/liveavatar.yaml
	$(BIN)/python scripts/lint_contract.py
	$(RUN) pytest -q tests/test_schemathesis.py

drift: install ## check that liveavatar_client/ is what the contract generates
	$(BIN)/python scripts/generate.py --check

# What users install: the package with the extras that are not for work on the project itself.
EXTRAS      = cli,mock,redis,testing
COMMA      := ,
EXTRA_FLAGS = --extra $(subst $(COMMA), --extra ,$(EXTRAS))

# pip-audit names each package that the package index has no advisories for; --strict makes that a failure.
AUDIT =
audit: install ## check what users install for known vulnerabilities (AUDIT=--strict: fail if one cannot be checked)
	@mkdir -p build
	@$(BIN)/uv pip compile --quiet --generate-hashes $(EXTRA_FLAGS) --no-emit-package liveavatar pyproject.toml -o build/runtime.txt
	$(RUN) pip_audit $(AUDIT) --disable-pip --progress-spinner off --requirement build/runtime.txt

coverage: install ## run all tests and require that they cover 95 % of the hand-written lines
	CYCLES=10000 $(RUN) pytest $(PARALLEL) --cov --cov-report=term --cov-fail-under=95

record: install ## record the cassettes again: from the live service if LIVEAVATAR_API_KEY is set, else from the mock server
	$(BIN)/python scripts/record.py

soak: install ## open and close 10,000 sessions with each client, and 20,000 while the service fails at random
	CYCLES=10000 $(RUN) pytest -q tests/faults/test_many.py -k many_cycles
	$(RUN) tests.faults.soak

.venv-mutants/$(STAMP): pyproject.toml constraints.txt Makefile
	$(call environment,--editable '.[mock]' mutmut==3.8.1 pytest pytest-timeout trustme)

MUTANTS = core
mutants: .venv-mutants/$(STAMP) ## change the code in small ways, list what no test notices (or MUTANTS=transports)
	@.venv-mutants/bin/python scripts/mutants.py $(MUTANTS)

# Tests that need none of the development tools run on other Pythons and with other versions of the dependencies.
# PEERS, the libraries of tests/test_ecosystem.py, are left out where they would hold back the versions to test.
TEST_TOOLS = hypothesis packaging pytest-cov pytest-timeout pytest-xdist trustme
PEERS      = aioresponses opentelemetry-instrumentation-aiohttp-client opentelemetry-instrumentation-httpx opentelemetry-sdk \
             pytest-httpx respx sentry-sdk uvloop
TOOL_TESTS = browser contract docs pipecat schemathesis
TESTS      = tests $(TOOL_TESTS:%=--ignore=tests/test_%.py)
UV         = $(BIN)/uv

floors: install ## run the tests with the lowest versions of the dependencies that pyproject.toml allows
	@mkdir -p build
	@$(UV) pip compile --quiet $(EXTRA_FLAGS) --resolution lowest-direct pyproject.toml --output-file build/floors.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python .venv-floors
	@$(UV) pip install --quiet --python .venv-floors --constraint build/floors.txt --editable '.[$(EXTRAS)]' $(TEST_TOOLS)
	.venv-floors/bin/python -m pytest $(PARALLEL) $(TESTS)

PRERELEASE = allow
newest: install ## run the tests with the newest releases and pre-releases (PRERELEASE=disallow: releases only)
	@$(UV) venv --quiet --clear --python $(BIN)/python .venv-newest
	@$(UV) pip install --quiet --python .venv-newest --upgrade --prerelease $(PRERELEASE) --editable '.[$(EXTRAS)]' $(TEST_TOOLS)
	@echo "Tested versions:"
	@$(UV) pip list --python .venv-newest
	@echo "Newer versions that an upper bound excludes:"
	@$(UV) pip list --python .venv-newest --outdated
	.venv-newest/bin/python -m pytest $(PARALLEL) $(TESTS)

PYTHONS = 3.11 3.12 3.13 3.14
pythons: install ## run the tests on each of PYTHONS that is installed (TESTS=tests/test_flows.py: only these)
	@PATH="$$PATH:$$(printf '%s:' "$$HOME"/.pyenv/versions/*/bin)"; failed=; \
	for version in $(PYTHONS); do \
	  python=$$($(UV) python find --no-python-downloads $$version 2>/dev/null) || { echo "Python $$version: SKIPPED, not installed"; continue; }; \
	  echo "Python $$version:" && \
	  $(UV) venv --quiet --clear --python "$$python" .venv-$$version && \
	  $(UV) pip install --quiet --python .venv-$$version --constraint constraints.txt --editable '.[$(EXTRAS)]' $(TEST_TOOLS) $(PEERS) && \
	  .venv-$$version/bin/python -m pytest -q $(PARALLEL) $(TESTS) || failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "Failed on Python$$failed"; exit 1; }

constraints: install ## update constraints.txt to the newest versions that pyproject.toml allows
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --no-annotate --custom-compile-command 'make constraints' pyproject.toml --output-file constraints.txt

ROUNDS = 5
CYCLES = 2000
BENCH = .venv-bench/bin/python -m

.venv-bench/$(STAMP): pyproject.toml constraints.txt
	$(call environment,--editable '.[mock]' trustme matplotlib)

bench-environment: .venv-bench/$(STAMP)
	@$(BENCH) pip install --quiet --disable-pip-version-check pipecat-ai || echo "Pipecat does not install here."

bench: bench-environment ## measure what the client costs beside other clients (ROUNDS=5 CYCLES=2000)
	@$(BENCH) bench.run --rounds $(ROUNDS) --cycles $(CYCLES)

bench-plot: bench-environment ## measure the same and write it to docs/performance.md and its plot
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

interop: $(INTEROP)/ready ## point other people's clients and a Celery worker at the mock server and show what works (CLIENT=livekit: one)
	@test -e $(WEB_SDK) || { mkdir -p $(INTEROP)/node && cp interop/package.json $(INTEROP)/node && \
	npm install --prefix $(INTEROP)/node --ignore-scripts --no-audit --no-fund --no-package-lock --silent; } || true
	@$(INTEROP)/bin/python -m interop $(if $(CLIENT),"$(CLIENT)")
	@$(INTEROP)/bin/python -m pytest -q tests/test_celery.py tests/test_pipecat.py

live: install ## check what the project assumes about the live service; needs LIVEAVATAR_API_KEY, costs nothing
	@$(BIN)/python scripts/live.py

pictures: install ## write docs/cli.svg from real runs of the command line
	$(BIN)/python scripts/picture.py

docs: install ## build the documentation site in site/, and test it; warnings are errors
	rm -rf site
	$(RUN) sphinx -W --keep-going -q -E -d build/doctrees docs site
	$(RUN) pytest -q -m site tests/test_docs.py tests/test_browser.py
	@echo "Open site/index.html"

.venv-build/$(STAMP): pyproject.toml constraints.txt
	$(call environment,build==1.6.1)

build: .venv-build/$(STAMP) ## build the wheel and the source distribution in dist/
	rm -rf dist
	.venv-build/bin/python -m build

.venv-release/$(STAMP): pyproject.toml constraints.txt
	$(call environment,cyclonedx-bom==7.5.0 twine==7.0.0)

release-check: build .venv-release/$(STAMP) ## check the built files, install and run them as a user does; writes build/sbom.json
	@PYTHON="$(PYTHON)" scripts/release_check.sh .venv-release/bin

clean: ## remove the environments and everything else that was made
	rm -rf "$(VENV)" .venv-* build dist site .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
