# Two commands do all the set-up on a fresh machine:
#
#   make demo    the tour on real input: every file of Python's standard library, measured on local workers
#   make test    every test
#
# Each makes its own virtual environment and installs what it lacks. The others:
#
#   make check   lint, format, types, layers        make bench   measure against the peers, write docs/benchmarks.md
#   make format  let the formatter have its way     make clean   remove all that these commands made
#
# PYTHON=… chooses the interpreter (3.11 or newer), TESTFLAGS=… adds options for pytest.

SHELL := /bin/bash
PYTHON ?= python3
TESTFLAGS ?=
BENCHFLAGS ?=

VENV := .venv
BIN := $(VENV)/bin

# What the demo needs of Debian: venv itself, where Debian ships Python without it; and what builds the widgets. What only
# tests need: a browser to look at the widgets with; an ssh, network namespaces and a Slurm to start workers with. What cannot
# be had is said by the tests that are skipped for it.
DEBIAN_PACKAGES := $(shell $(PYTHON) -c 'import ensurepip' 2>/dev/null || echo python3-venv) \
	$(shell command -v npm >/dev/null || echo nodejs npm)
BROWSER_PACKAGES := $(shell command -v chromium chromium-browser google-chrome >/dev/null || echo chromium) fonts-dejavu-core
DEBIAN_TEST_PACKAGES := openssh-client openssh-server iproute2 slurm-wlm munge

# Environments that only tests use: another major version of ipykernel, and other Pythons where they are to be had.
OTHER_ENVIRONMENTS := ipykernel6 py312 py313 zerorpc

# A stamp is as old as the environment that it stands for; tools/environment.py finds out whether anything in it is outdated.
BASE := $(VENV)/.stamp-base
DEV := $(VENV)/.stamp-dev
BENCH := $(VENV)/.stamp-bench
DEBIAN := .stamps/debian-$(subst $() ,_,$(strip none $(DEBIAN_PACKAGES)))
DEBIAN_TEST := .stamps/debian-$(subst $() ,_,$(DEBIAN_TEST_PACKAGES))
BROWSER := .stamps/debian-$(subst $() ,_,$(strip browser $(BROWSER_PACKAGES)))

# The widgets' front end is built into the Python package, whose wheel takes it along.
NPM := .stamps/npm
BUNDLES := .stamps/bundles

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format bench clean other-environments

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo: $(BASE) $(BUNDLES)
	$(BIN)/znb demo

# The tests that need a core to themselves run first and alone. Exit status 5: no test was selected. The package is
# compiled before, as an installed one is: where Python may not write bytecode, each process would compile it again.
test: $(DEV) $(BUNDLES) $(BROWSER) $(DEBIAN_TEST) other-environments
	@for python in $(BIN)/python $(OTHER_ENVIRONMENTS:%=.venvs/%/bin/python); do \
		[ ! -x $$python ] || $$python -m compileall -q znb tests || exit 1; \
	done
	@failed=0; \
	tools/npm.sh test || failed=1; \
	$(BIN)/python -m pytest -m serial $(TESTFLAGS) || [ $$? -eq 5 ] || failed=1; \
	$(BIN)/python -m pytest -m 'not serial' -n 2 --dist worksteal $(TESTFLAGS) || failed=1; \
	exit $$failed

check: $(DEV) $(NPM)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/npm.sh run check

format: $(DEV)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(BENCH)
	$(BIN)/python -m compileall -q znb
	$(BIN)/python benchmarks/run.py $(BENCHFLAGS)

clean:
	rm -rf $(VENV) .venvs .stamps js/node_modules znb/widgets/static artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEBIAN):
	$(if $(strip $(DEBIAN_PACKAGES)),tools/debian.sh $(DEBIAN_PACKAGES))
	@mkdir -p $(@D) && touch $@

# RUNLEVEL: their daemons are not to be started, tests start their own.
$(DEBIAN_TEST): tools/debian.sh
	RUNLEVEL=1 tools/debian.sh $(DEBIAN_TEST_PACKAGES) || echo "NOT INSTALLED: tests that need it are skipped, and say so" >&2
	@mkdir -p $(@D) && touch $@

$(BROWSER): tools/debian.sh
	tools/debian.sh $(BROWSER_PACKAGES) || echo "NOT INSTALLED: tests that need it are skipped, and say so" >&2
	@mkdir -p $(@D) && touch $@

$(NPM): js/package-lock.json js/.npmrc tools/npm.sh $(DEBIAN)
	tools/npm.sh ci
	@touch $@

$(BUNDLES): $(NPM) js/build.mjs $(wildcard js/src/*/*.ts js/src/*/*.css)
	tools/npm.sh run build
	@touch $@

$(BASE): pyproject.toml tools/environment.py $(DEBIAN) | $(BUNDLES)
	$(PYTHON) tools/environment.py $(VENV) --install .
	@touch $@

$(DEV): $(BASE)
	$(PYTHON) tools/environment.py $(VENV) --install '.[dev]'
	@touch $@

$(BENCH): $(DEV)
	$(PYTHON) tools/environment.py $(VENV) --install '.[bench]'
	@touch $@

other-environments: $(OTHER_ENVIRONMENTS:%=.venvs/%/.stamp)

.venvs/ipykernel6/.stamp: pyproject.toml tools/environment.py $(DEBIAN)
	$(PYTHON) tools/environment.py $(@D) --install . --install 'ipykernel>=6.29,<7' --install matplotlib
	@touch $@

# The peer that services are tested against; it needs gevent, so it has an environment of its own.
.venvs/zerorpc/.stamp: tools/environment.py $(DEBIAN)
	$(PYTHON) tools/environment.py $(@D) --install 'zerorpc==0.6.3'
	@touch $@

# py312 stands for Python 3.12. Where there is none, tools/environment.py says so and makes an empty folder; the tests that
# would use it are skipped and say so too.
.venvs/py%/.stamp: pyproject.toml tools/environment.py $(DEBIAN)
	$(PYTHON) tools/environment.py $(@D) --python $(patsubst 3%,3.%,$*) --install . --install matplotlib
	@touch $@
