# make demo | make test | make check | make bench: each sets up .venv first, once.

# Tests run tiny models, for which a second thread costs more than it brings.
TEST_THREADS ?= 1
TEST_WORKERS ?= 2
# Options for pytest; `make test TEST_OPTIONS="-m slow"` runs the slow tests alone.
TEST_OPTIONS ?=
DEMO_THREADS ?= 2

SOURCES   := src tests examples benchmarks
NEWER     := import sys; sys.exit(sys.version_info < (3, 11))
# The first command that is a Python of at least 3.11; PYTHON=/path/to/python chooses another.
PYTHON    ?= $(shell for p in python3.11 python3; do $$p -c '$(NEWER)' 2>/dev/null && echo $$p && break; done)
PIP       := .venv/bin/python -m pip --disable-pip-version-check -qq
INSTALLED := .venv/.installed
# Everything that the demo and the tests load is on disk: no look-up of a hub.
OFFLINE   := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# Images often forbid it, and then every process compiles all that it imports: 21 s of processor time
# instead of 8 to import torch, transformers and peft, on the machine of docs/results.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help .venv demo test check check-all format bench clean

help:
	@echo "make demo    fine-tune a small pretrained model with BiDoRA, offline, in a few minutes"
	@echo "make test    run the tests"
	@echo "make check   formatting, lint, types, import layers, tests"
	@echo "make check-all  the same, and the slow tests"
	@echo "make format  format the sources and fix what lint can fix"
	@echo "make bench   measure every method against PEFT and the floor; an hour, on a quiet machine"
	@echo "make clean   remove .venv and caches"

.venv: $(INSTALLED)

# torch goes first and by its exact version: a range would fetch gigabytes of CUDA libraries.
# Nothing is compiled ahead: Python compiles what is imported, when it is.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(NEWER)' || { \
	  echo "rankwright needs Python 3.11 or newer, and neither python3.11 nor python3 is one;" >&2; \
	  echo "install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into .venv (about 2 GB, once) ..."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(PIP) install --no-compile torch==2.13.0
	@$(PIP) install --no-compile -c constraints.txt -e '.[dev,demo]'
	@touch $@

demo: .venv
	@$(OFFLINE) OMP_NUM_THREADS=$(DEMO_THREADS) .venv/bin/rankwright demo

test: .venv
	@$(OFFLINE) OMP_NUM_THREADS=$(TEST_THREADS) .venv/bin/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --durations=15 $(TEST_OPTIONS)

check: .venv
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/lint-imports
	@$(MAKE) --no-print-directory test

check-all: .venv
	@$(MAKE) --no-print-directory check TEST_OPTIONS="-m ''"

format: .venv
	.venv/bin/ruff format $(SOURCES)
	.venv/bin/ruff check --fix $(SOURCES)

# One thread: its counters are this thread's, and ratios do not depend on how many cores are free.
bench: .venv
	@$(OFFLINE) OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.bench --write

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
