# Every command a developer types.  `make` alone lists them.
#
# The first one sets up .venv: a Python of at least 3.11, the packages of requirements.lock with
# their hashes checked, and this tree installed in place.  It is done again only when the lock or
# pyproject.toml changes, and it is the only time that the network is used.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# A name or path of the Python to use, if not the first of the list in the set-up below.
PYTHON ?=
# How many processes run the tests: half of a test's time is spent waiting for real processes.
TESTS_AT_ONCE ?= 3
BIN := .venv/bin
PACKAGES := gossip peernode simulations storage worker

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help setup demo test torture bench lint format lock clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: .venv/installed ## install everything into .venv

demo: .venv/installed ## the whole story on this machine, with one node and with three
	@$(BIN)/peernode demo
	@$(BIN)/peernode demo --nodes 3

test: lint ## lint, then every test but the long ones (under 10 minutes on 2 cores)
	@$(BIN)/python -m worker.wasm
	@$(BIN)/python -m pytest -q -n $(TESTS_AT_ONCE) --dist worksteal -m "not torture"

torture: .venv/installed ## the long tests: crashes, full disks, lost workers; seeded and bounded
	@$(BIN)/python -m pytest -q -m torture

bench: .venv/installed ## one JSON line a figure, medians (see docs/development.md)
	@$(BIN)/python -m tests.benchmarks $(BENCH)

lint: .venv/installed ## style, format and types
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m ruff format --check --quiet . \
		|| { echo "not formatted: run 'make format'" >&2; exit 1; }
	@$(BIN)/python -m mypy --no-error-summary

format: .venv/installed ## let ruff format and sort
	@$(BIN)/python -m ruff check --quiet --fix-only .
	@$(BIN)/python -m ruff format --quiet .

lock: ## write requirements.lock anew; UPGRADE=1 takes newer versions (needs the network)
	@set -e; uv="$$(command -v uv || true)"; \
	if [ -z "$$uv" ]; then \
		$(find_python); \
		[ -x build/uv/bin/uv ] || { "$$python" -m venv build/uv && build/uv/bin/pip install -qq uv; }; \
		uv=build/uv/bin/uv; \
	fi; \
	"$$uv" pip compile --universal --python-version 3.11 --extra inference --extra openvino --extra sim --extra wasm --extra dev \
		--generate-hashes --no-header --no-emit-index-url -q $(if $(UPGRADE),--upgrade) -o requirements.lock pyproject.toml

clean: ## remove what the targets above made, .venv included
	@rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage
	@find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up ---------------------------------------------------------------------------------

# Sets $python to the first that runs and is new enough; one line if there is none.
define find_python
	python=""; \
	for name in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python); do \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python="$$name"; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "peernode needs Python 3.11 or later: install python3.11, or name one: make PYTHON=..." >&2; \
		exit 1; \
	fi
endef

# Sets $missing to what $python lacks: `venv` to make .venv, and to build the dependencies of libp2p
# a `compiler`, the headers of `python` and those of the GNU multiple precision library (`gmp`).
define find_missing
	brew="$$(brew --prefix 2>/dev/null || true)"; \
	has_header() { echo "#include <$$1>" | cc -E $${brew:+-I"$$brew/include"} - >/dev/null 2>&1; }; \
	missing=""; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing venv"; \
	has_header stdio.h || missing="$$missing compiler"; \
	has_header gmp.h || missing="$$missing gmp"; \
	[ -e "$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] \
		|| missing="$$missing python"
endef

# Installs what is missing where that needs no question (root, with apt), else says what to install.
define install_missing
	version="$$("$$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"; \
	$(find_missing); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		names=""; \
		for what in $$missing; do case $$what in \
			venv) names="$$names $$version-venv";; \
			compiler) names="$$names gcc libc6-dev";; \
			python) names="$$names $$version-dev";; \
			gmp) names="$$names libgmp-dev";; \
		esac; done; \
		echo "installing system packages:$$names"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $$names; } >/dev/null || true; \
		$(find_missing); \
	fi; \
	if [ -n "$$missing" ]; then \
		echo "missing ($${missing# }): on Debian or Ubuntu 'apt-get install gcc libc6-dev libgmp-dev $$version-dev $$version-venv', on Fedora 'dnf install gcc gmp-devel python3-devel', on macOS 'xcode-select --install; brew install gmp'" >&2; \
		exit 1; \
	fi
endef

.venv/installed: requirements.lock pyproject.toml
	@set -e; $(find_python); \
	$(install_missing); \
	echo "setting up .venv with $$("$$python" -V) (a minute or two, once)"; \
	$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| "$$python" -m venv --clear .venv; \
	if [ -n "$$brew" ]; then export CFLAGS="-I$$brew/include" LDFLAGS="-L$$brew/lib"; fi; \
	$(BIN)/python -m pip install -qq --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --no-index -e .; \
	echo "building Python for WebAssembly (half a minute, once a user)"; \
	$(BIN)/python -m worker.wasm; \
	touch $@
