# Everything starts here: `make` alone lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV

PYTHON ?= python3
BIN := .venv/bin
UV := .venv/bin/uv
SDK := .venv-sdk
MLFLOW := mlflow2 mlflow3 azureml-mlflow
AZMLSERVER := .venv-azmlserver
# Test modules at once: most of their time they wait, for other processes or for a client's pauses.
PROCESSES ?= 2

.PHONY: help demo demo-sdk test test-fast lint bench lock clean install sdk mlflow azmlserver system

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: .venv/.ready ## Install, start Tidemill in a scratch home, train on the digits, show where everything is
	@$(BIN)/python examples/demo.py

demo-sdk: .venv/.ready $(SDK)/.ready ## The same job through Microsoft's azure-ai-ml SDK, in a venv of its own
	@$(BIN)/python examples/demo.py --sdk $(SDK)/bin/python

test: install sdk mlflow azmlserver system ## Install everything the tests need and run them all
	$(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile

test-fast: .venv/.dev ## Unit and contract tests only
	$(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile tests/unit tests/contract -m 'not slow and not kill and not postgres'

lint: .venv/.dev ## ruff, pyright, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@! find tests -name 'test_*.py' | sed 's|.*/||' | sort | uniq -d | grep . || { echo "Test modules of one name: pytest collects neither."; exit 1; }
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: .venv/.dev ## Benchmarks: tables with ratios to floors measured in the same run
	$(BIN)/python -m benchmarks

lock: .venv/.uv ## Resolve the locked requirements anew
	$(UV) pip compile -q --universal --no-emit-index-url --no-header --generate-hashes --python-version 3.11 \
		-o requirements/tidemill.txt pyproject.toml
	$(UV) pip compile -q --universal --no-emit-index-url --no-header --generate-hashes --python-version 3.11 \
		--extra dev -c requirements/tidemill.txt -o requirements/dev.txt pyproject.toml
	for name in sdk azmlserver $(MLFLOW); do \
		$(UV) pip compile -q --no-emit-index-url --no-header --generate-hashes --python-version 3.11 \
			-o requirements/$$name.txt requirements/$$name.in; done

clean: ## Remove what make installed (homes of Tidemill are left alone)
	rm -rf .venv .venv-* .cache build dist

install: .venv/.dev
sdk: $(SDK)/.ready
mlflow: $(MLFLOW:%=.venv-%/.ready)
azmlserver: $(AZMLSERVER)/.ready

.venv/.uv:
	@$(PYTHON) -c 'import sys; sys.exit("Tidemill needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.11." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.5"
	@touch $@

.venv/.ready: .venv/.uv requirements/tidemill.txt pyproject.toml
	$(UV) pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/tidemill.txt
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

.venv/.dev: .venv/.ready requirements/dev.txt
	$(UV) pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	@touch $@

# A client in a venv of its own.
.venv-%/.ready: .venv/.uv requirements/%.txt
	$(UV) venv -q --clear --python $(PYTHON) .venv-$*
	$(UV) pip install -q --python .venv-$*/bin/python --compile-bytecode --require-hashes -r requirements/$*.txt
	@touch $@

# Debian packages that tests use. Without root nothing is installed: those tests say what they miss.
system:
	@bash tests/system-packages.sh
