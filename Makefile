# `make run` and `make test` need nothing but Python 3.11 or newer, make and git: the rest goes into .venv,
# Node.js among it, and into the frontend's node_modules.

PORT ?= 8000

# Where there is a choice of Pythons, the newest versions are tried on the newest, the lowest on the lowest.
NEWEST_FIRST := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
LOWEST_FIRST := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
# A command may be too old, lack venv, or be a shim that fails: only running it tells.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

PY := .venv/bin/python
PY_FLOOR := .venv-floor/bin/python
PY_PEERS := .venv-peers/bin/python
MANAGE := $(PY) example_project/manage.py
CLIENTS := tests/clients
TESTS := -m pytest --numprocesses auto --dist loadfile --ignore $(CLIENTS)
# What these see does not depend on the versions of Python and Django.
ONLY_NEWEST := --ignore tests/browser --ignore tests/openfeature --ignore tests/nextjs --ignore tests/blocklists \
	--ignore tests/test_benchmarks.py --ignore tests/test_pytest_plugin.py --ignore tests/test_endurance.py \
	--ignore tests/test_polling_fleet.py --ignore tests/test_sharing.py --ignore tests/test_large_definitions.py
LOCK_ONLY := .venv-lock/bin/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url
LOCK := $(LOCK_ONLY) --extra api

FRONTEND := example_project/frontend
FRONTEND_SOURCES := $(shell find $(FRONTEND) -type d \( -name node_modules -o -name dist \) -prune -o -type f -print)
FEATURES_COPY := $(shell find $(FRONTEND)/src/api $(FRONTEND)/src/features -type f)
OPENFEATURE := tests/openfeature
BLOCKLISTS := tests/blocklists
NEXTJS := tests/nextjs
NEXTJS_SOURCES := $(wildcard $(NEXTJS)/app/*) $(addprefix $(NEXTJS)/,next.config.ts proxy.ts tsconfig.json)
BROWSER_SIDE := $(FRONTEND)/dist/ready $(OPENFEATURE)/dist/ready $(NEXTJS)/.next/ready $(BLOCKLISTS)/node_modules/ready
# npm takes whichever node stands first in PATH.
NPM_IN = PATH="$(CURDIR)/.venv/bin:$$PATH" npm --silent --prefix
NPM = $(NPM_IN) $(FRONTEND)

export PORT
# Chromium comes as an npm package; nothing else is to be downloaded while packages are installed.
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD = 1
export NEXT_TELEMETRY_DISABLED = 1
export PUPPETEER_SKIP_DOWNLOAD = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install run dev frontend openfeature nextjs blocklists test test-newest test-floor check lint types openapi \
	openapi-check openapi-lint generators-check client client-check frontend-check \
	wheel-check run-check posthog screenshots bench bench-outage lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: .venv/ready ## set up .venv; the other targets do it themselves
	@echo "Ready: .venv"

run: .venv/ready $(FRONTEND)/dist/ready ## start the example project, on PORT=8000
	@$(MANAGE) demo
	@echo "Or ask from another terminal: curl -i http://127.0.0.1:$(PORT)/api/features/"
	@echo
	@$(MANAGE) runserver 127.0.0.1:$(PORT)

dev: .venv/ready $(FRONTEND)/node_modules/ready ## the same with the frontend from source: edit it, and see
	@$(MANAGE) demo >/dev/null
	@$(PY) scripts/dev.py

frontend: $(FRONTEND)/dist/ready ## build the example's frontend; the other targets do it themselves
	@echo "Ready: $(FRONTEND)/dist"

openfeature: $(OPENFEATURE)/dist/ready ## bundle OpenFeature's clients for the tests; the tests do it themselves
	@echo "Ready: $(OPENFEATURE)/dist"

nextjs: $(NEXTJS)/.next/ready ## build the Next.js application of the tests; the tests do it themselves
	@echo "Ready: $(NEXTJS)/.next"

blocklists: $(BLOCKLISTS)/node_modules/ready ## install an ad blocker's list for the tests; the tests do it themselves
	@echo "Ready: $(BLOCKLISTS)/node_modules"

posthog: .venv/ready ## start the stand-in PostHog of the tests, for the example to ask
	@$(PY) -m tests.posthog_server --port 8765 --flags example_project/posthog.json \
		--definitions example_project/flags.json

test: test-newest test-floor ## run every test, on the newest and on the lowest versions

test-newest: .venv/ready $(BROWSER_SIDE) ## run every test on the newest versions
	$(PY) $(TESTS)

test-floor: .venv-floor/ready ## run every test on the lowest versions
	$(PY_FLOOR) $(TESTS) $(ONLY_NEWEST)

check: lint types openapi-check openapi-lint generators-check client-check frontend-check wheel-check run-check ## everything but the tests

lint: .venv/ready ## check the code's style and layers
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	PYTHONPATH=api .venv/bin/lint-imports --no-cache --no-logo

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

openapi-lint: $(CLIENTS)/node_modules/ready ## lint openapi.yaml with Redocly CLI and Spectral
	@$(NPM_IN) $(CLIENTS) run lint

generators-check: .venv/ready .venv-generators/ready $(CLIENTS)/node_modules/ready ## generate clients, and read a site with each
	$(PY) -m pytest $(CLIENTS)

client: $(FRONTEND)/node_modules/ready ## rewrite the TypeScript client from openapi.yaml
	@$(NPM) run client

client-check: $(FRONTEND)/node_modules/ready ## fail if the client is not what openapi.yaml says
	@if $(NPM) run client -- --check; then echo "the TypeScript client is what openapi.yaml says"; \
	else echo "the TypeScript client is out of date: run make client" >&2; exit 1; fi

frontend-check: $(FRONTEND)/node_modules/ready ## check the frontend's types and style
	$(NPM) run check

wheel-check: .venv/ready ## build the wheel and use it as a stranger would
	$(PY) scripts/check_wheel.py

run-check: .venv/ready $(FRONTEND)/dist/ready ## start the example twice, and use it
	$(PY) scripts/check_run.py

screenshots: .venv/ready $(FRONTEND)/dist/ready ## take the pictures of the docs anew
	$(PY) -m tests.browser.screenshots

bench: .venv-peers/ready ## measure against the predecessor and the SDKs of other vendors
	$(PY_PEERS) -m benchmarks

bench-outage: .venv/ready ## measure through an outage of PostHog, beside the predecessor
	$(PY) -m benchmarks.outage

lock: .venv-lock/ready ## move the locks to the newest releases
	$(LOCK) --group dev pyproject.toml --output-file requirements/dev.txt
	$(LOCK) --group peers --constraint requirements/dev.txt pyproject.toml --output-file requirements/peers.txt
	$(LOCK) --group test --constraint requirements/floor.in pyproject.toml --output-file requirements/floor.txt
	$(LOCK_ONLY) requirements/generators.in --output-file requirements/generators.txt

clean: ## remove what these targets made
	rm -rf .venv .venv-floor .venv-generators .venv-peers .venv-lock dist
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf example_project/var $(FRONTEND)/dist $(FRONTEND)/node_modules
	rm -rf $(OPENFEATURE)/dist $(OPENFEATURE)/node_modules $(CLIENTS)/dist $(CLIENTS)/node_modules
	rm -rf $(NEXTJS)/.next $(NEXTJS)/lib $(NEXTJS)/node_modules $(BLOCKLISTS)/node_modules
	find . -name __pycache__ -type d -exec rm -rf {} +

# An environment is made anew whenever its lock changes. The checkout itself is installed editable, with
# the locked build tool, so that nothing comes in that the lock does not name.
.venv/ready: requirements/dev.txt
	$(call create,$(NEWEST_FIRST))
	$(call fill,$<)

.venv-floor/ready: requirements/floor.txt
	$(call create,$(LOWEST_FIRST))
	$(call fill,$<)

.venv-peers/ready: requirements/peers.txt
	$(call create,$(NEWEST_FIRST))
	$(call fill,$<)

# `npm ci` takes exactly what the lock names, and checks its hashes.
$(FRONTEND)/node_modules/ready: $(FRONTEND)/package.json $(FRONTEND)/package-lock.json $(FRONTEND)/.npmrc | .venv/ready
	@echo "Installing the frontend's packages (about half a minute the first time)..."
	@$(NPM) ci
	@touch $@

$(FRONTEND)/dist/ready: $(FRONTEND_SOURCES) $(FRONTEND)/node_modules/ready
	@echo "Building the frontend..."
	@$(NPM) run build -- --logLevel warn
	@touch $@

$(OPENFEATURE)/node_modules/ready: $(OPENFEATURE)/package.json $(OPENFEATURE)/package-lock.json $(OPENFEATURE)/.npmrc | .venv/ready
	@echo "Installing OpenFeature's clients..."
	@$(NPM_IN) $(OPENFEATURE) ci
	@touch $@

$(OPENFEATURE)/dist/ready: $(OPENFEATURE)/vite.config.js $(wildcard $(OPENFEATURE)/clients/*.js) $(OPENFEATURE)/node_modules/ready
	@$(NPM_IN) $(OPENFEATURE) run build -- --logLevel warn
	@touch $@

$(CLIENTS)/node_modules/ready: $(CLIENTS)/package.json $(CLIENTS)/package-lock.json $(CLIENTS)/.npmrc | .venv/ready
	@echo "Installing the linters and generators for openapi.yaml..."
	@$(NPM_IN) $(CLIENTS) ci
	@touch $@

.venv-generators/ready: requirements/generators.txt
	$(call create,$(NEWEST_FIRST))
	@$(@D)/bin/python -m pip install -qq --requirement $<
	@touch $@

$(NEXTJS)/node_modules/ready: $(NEXTJS)/package.json $(NEXTJS)/package-lock.json $(NEXTJS)/.npmrc | .venv/ready
	@echo "Installing Next.js..."
	@$(NPM_IN) $(NEXTJS) ci
	@touch $@

$(NEXTJS)/.next/ready: $(NEXTJS_SOURCES) $(FEATURES_COPY) $(NEXTJS)/node_modules/ready
	@echo "Building the Next.js application..."
	@$(NPM_IN) $(NEXTJS) run build >/dev/null
	@touch $@

$(BLOCKLISTS)/node_modules/ready: $(BLOCKLISTS)/package.json $(BLOCKLISTS)/package-lock.json $(BLOCKLISTS)/.npmrc | .venv/ready
	@echo "Installing a block list..."
	@$(NPM_IN) $(BLOCKLISTS) ci
	@touch $@

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
