# `make run` and `make test` need nothing but Python 3.11 or newer, make and git: the rest goes into .venv.

PORT ?= 8000

# Where there is a choice of Pythons, the newest versions are tried on the newest, the lowest on the lowest.
NEWEST_FIRST := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
LOWEST_FIRST := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
# A command may be too old, lack venv, or be a shim that fails: only running it tells.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

PY := .venv/bin/python
PY_FLOOR := .venv-floor/bin/python
MANAGE := $(PY) example_project/manage.py
LOCK := .venv-lock/bin/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --extra api

export PORT
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-newest test-floor check lint types openapi openapi-check wheel-check \
	bench bench-outage lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: .venv/ready ## set up .venv; the other targets do it themselves
	@echo "Ready: .venv"

run: .venv/ready ## start the example project, on PORT=8000
	@$(MANAGE) demo
	@echo "Or ask from another terminal: curl -i http://127.0.0.1:$(PORT)/api/features/"
	@echo
	@$(MANAGE) runserver 127.0.0.1:$(PORT)

test: test-newest test-floor ## run every test, on the newest and on the lowest versions

test-newest: .venv/ready ## run every test on the newest versions
	$(PY) -m pytest

test-floor: .venv-floor/ready ## run every test on the lowest versions
	$(PY_FLOOR) -m pytest

check: lint types openapi-check wheel-check ## everything but the tests

lint: .venv/ready ## judge the code's style
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: .venv/ready ## check the types, twice
	$(PY) -m mypy
	$(PY) -m pyright --warnings

openapi: .venv/ready ## rewrite openapi.yaml from the views
	$(MANAGE) spectacular --validate --fail-on-warn --file openapi.yaml

openapi-check: .venv/ready ## fail if openapi.yaml is not what the views say
	@fresh=$$(mktemp) && trap 'rm -f "$$fresh"' EXIT && \
	$(MANAGE) spectacular --validate --fail-on-warn --file "$$fresh" && \
	if diff -u openapi.yaml "$$fresh"; then echo "openapi.yaml is what the views say"; \
	else echo "openapi.yaml is out of date: run make openapi" >&2; exit 1; fi

wheel-check: .venv/ready ## build the wheel and use it as a stranger would
	$(PY) scripts/check_wheel.py

bench: .venv/ready ## measure against the predecessor
	$(PY) -m benchmarks

bench-outage: .venv/ready ## measure through an outage of PostHog, beside the predecessor
	$(PY) -m benchmarks.outage

lock: .venv-lock/ready ## move the locks to the newest releases
	$(LOCK) --group dev pyproject.toml --output-file requirements/dev.txt
	$(LOCK) --group test --constraint requirements/floor.in pyproject.toml --output-file requirements/floor.txt

clean: ## remove what these targets made
	rm -rf .venv .venv-floor .venv-lock dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name node_modules -prune -o -name __pycache__ -type d -exec rm -rf {} +

# An environment is made anew whenever its lock changes. The checkout itself is installed editable, with
# the locked build tool, so that nothing comes in that the lock does not name.
.venv/ready: requirements/dev.txt
	$(call create,$(NEWEST_FIRST))
	$(call fill,$<)

.venv-floor/ready: requirements/floor.txt
	$(call create,$(LOWEST_FIRST))
	$(call fill,$<)

.venv-lock/ready:
	$(call create,$(NEWEST_FIRST))
	@$(@D)/bin/python -m pip install -qq uv
	@touch $@

# PYENV_VERSION lets pyenv's shims find a Python that is installed but not selected.
define create
@for python in $(1); do \
	export PYENV_VERSION="$${python##*python}"; \
	"$$python" -c '$(SUITABLE)' 2>/dev/null && break; python=; \
done; \
if [ -z "$$python" ]; then \
	echo "No Python 3.11 or newer with the venv module among: $(1)." >&2; \
	echo "Install one, or name it: make $(or $(MAKECMDGOALS),install) PYTHON=python3.13" >&2; exit 1; \
fi; \
echo "Setting up $(@D) with $$("$$python" --version) (about a minute the first time)..."; \
"$$python" -m venv --clear $(@D)
endef

define fill
@$(@D)/bin/python -m pip install -qq --requirement $(1)
@$(@D)/bin/python -m pip install -qq --no-deps --no-build-isolation --editable .
@touch $@
endef
