# The menu of pengi-rt; `make` alone prints it. `make demo` and `make test` set everything up by
# themselves: they need git, make, a C++ compiler and Python 3.11 or newer, and fetch everything
# else. `make demo` fetches only the runtime (no torch) and matplotlib.

PYTHON ?= python3

# The torch to install, as an argument of pip. If the package index offers a CPU build, pip prefers
# it (2.13.0+cpu sorts above 2.13.0). For Linux the public index offers only the build that brings
# gigabytes of CUDA libraries along; PyTorch's own CPU index is then the faster way:
#   make test TORCH="torch==2.13.0 --index-url ADDRESS"
TORCH ?= torch==2.13.0

# A folder laid out like the reference data: checkpoint maker, tokenizers and golden results.
# Tests and benchmarks that need it skip without it.
ifdef REFERENCE
export PENGI_RT_REFERENCE := $(abspath $(REFERENCE))
endif

# make's own default is g++; CMake tries c++ first.
ifeq ($(origin CXX),default)
CXX := c++
endif

# Recordings for `make demo` instead of synthesized ones: make demo SOUNDS="a.wav b.mp3"
SOUNDS ?=

# Number of processes that run the tests; each makes its own plans and needs about 2 GiB.
WORKERS ?= 2

# What `make isa` runs: make isa TESTS="tests/kernels tests/models"
TESTS ?= tests

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard kernels/csrc/*)

# `check || $(stop) "one line"`: print the line and fail.
stop = sh -c 'echo "make: $$0" >&2; exit 1'

.PHONY: help demo test lint types isa bench attack parity reference clean

help: ## Print this menu
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=$(PYTHON)  TORCH=$(TORCH)  REFERENCE=$(REFERENCE)  can follow any of them."

demo: .venv/.ready ## Answer about synthesized sounds, or SOUNDS="a.wav b.mp3"; plot the answers
	$(BIN)/python -m pengi_rt.training.scenes.demo .demo $(SOUNDS)

test: lint types ## Run every check: lint, types, tests, each benchmark once
	$(BIN)/pytest tests benchmarks --numprocesses $(WORKERS) --dist worksteal

isa: .venv/.dev ## Run the tests once per instruction set, as on older processors, TESTS=tests
	$(BIN)/python tests/support/instruction_sets.py $(TESTS) --numprocesses $(WORKERS) --dist worksteal

lint: .venv/.dev ## Check style and formatting with ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.dev ## Check types with mypy, strict
	$(BIN)/mypy

bench: .venv/.dev ## Time the benchmarks
	$(BIN)/pytest benchmarks --benchmark-only

attack: .venv/.dev ## Run attacks: damaged and hostile files, kills, full disks; takes minutes
	PENGI_RT_ATTACK=1 $(BIN)/pytest tests/reliability --numprocesses $(WORKERS) --dist worksteal

parity: reference .venv/.dev ## Compare with the released model, REFERENCE=DIR; write docs/parity.md
	$(BIN)/python tests/parity/run.py "$(REFERENCE)"

reference:
	@test -n "$(REFERENCE)" || $(stop) "say where the reference data is: make parity REFERENCE=DIR"
	@test -d "$(REFERENCE)" || $(stop) "REFERENCE=$(REFERENCE) is not a folder"

clean: ## Remove everything that make made, including the environment
	rm -rf .venv .demo build dist .mypy_cache .ruff_cache .pytest_cache .benchmarks

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || $(stop) "$(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..."
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || $(stop) "$(PYTHON) cannot make environments; install its venv module (Debian: python3-venv)"
	@$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null \
	  || $(stop) "$(PYTHON) has no C headers; install them (Debian: python3-dev)"
	@command -v $(CXX) >/dev/null \
	  || $(stop) "there is no C++ compiler $(CXX); install one, or name it: make CXX=clang++ ..."
	$(PYTHON) -m venv --clear .venv
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

.venv/.ready: .venv/.made $(BUILT_FROM)
	$(PIP) --editable '.[plot]'
	@touch $@

.venv/.torch: .venv/.made
	@echo "Fetching $(TORCH): takes minutes, only once."
	$(PIP) $(TORCH)
	@touch $@

.venv/.dev: .venv/.torch $(BUILT_FROM)
	$(PIP) --editable '.[export,train,plot]' --group dev
	@touch $@ .venv/.ready
