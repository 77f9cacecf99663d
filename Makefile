# Two commands matter: `make run` and `make test`. Each sets up all it needs: a virtual environment in .venv, the C++
# extension, the dependencies. The first time takes a minute or two; after that, seconds.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROMPT ?= Once upon a time

# CI compares with transformers, too. Elsewhere `make test PARITY=1` does: it installs torch (large).
ifdef CI
PARITY ?= 1
endif
comma := ,
EXTRAS = dev$(if $(PARITY),$(comma)parity)

NATIVE := CMakeLists.txt pyproject.toml $(shell find native -type f 2>/dev/null)

.PHONY: run test test-all test-gpu sanitize lint build clean help

help:
	@echo "make run        a story in four sequences from the bundled model (PROMPT=... for your own)"
	@echo "make test       the tests        make test-all   the heavy ones too"
	@echo "make sanitize   the C++ tests under the address, undefined-behaviour and thread sanitizers"
	@echo "make lint       ruff, mypy --strict, import contract"
	@echo "make build      rebuild the C++ extension in place"
	@echo "make clean      remove the environment and all build results"

run: $(VENV)/.built
	@$(BIN)/plait run -p "$(PROMPT)" -np 4 -n 120

test: $(VENV)/.dev$(PARITY)
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: $(VENV)/.dev$(PARITY)
	$(BIN)/python -m pytest -m "not gpu"

test-gpu:
	@PYTHON=$(PYTHON) tests/gpu/run.sh

# One scalar path and the two x86 families of code; threads are the team's and the program's matter, so one path does.
SANITIZE := cmake -S . -G Ninja -Wno-dev -DPLAIT_NATIVE_TESTS=ON --log-level=WARNING
sanitize: $(VENV)/.tools
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; set -e; \
	$(SANITIZE) -B build/sanitize-address -DPLAIT_SANITIZE=address,undefined "-DPLAIT_PATHS=avx2;avx512_vnni"; \
	cmake --build build/sanitize-address --parallel 2; \
	build/sanitize-address/native/tests/native_tests; \
	$(SANITIZE) -B build/sanitize-thread -DPLAIT_SANITIZE=thread -DPLAIT_PATHS=none; \
	cmake --build build/sanitize-thread --target native_threads --parallel 2; \
	build/sanitize-thread/native/tests/native_threads

lint: $(VENV)/.dev$(PARITY)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

build: $(VENV)/.built

$(VENV)/.tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "plait needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 run" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "plait needs a C++ compiler: install g++ or clang++ (Debian: apt-get install g++)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python's venv module is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "[1/3] build tools"
	@$(PIP) install --quiet "scikit-build-core>=0.10,<2" "nanobind>=2.4,<4" "cmake>=3.26,<5" "ninja>=1.11,<2"
	@touch $@

$(VENV)/.built: $(VENV)/.tools $(NATIVE)
	@echo "[2/3] plait: compile the kernels, install the dependencies"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev$(PARITY): $(VENV)/.built
	@echo "[3/3] test tools ($(EXTRAS))"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
