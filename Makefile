# Only python3 >= 3.11 and make are assumed. Everything goes into .venv and .bench below this folder.

PYTHON ?= python3
BIN := .venv/bin
# Small networks on few cores: more threads than cores wait for one another.
export OMP_WAIT_POLICY ?= PASSIVE

# Tests of one file share what is slow to make, and so a process; the order is that of tests/conftest.py.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

# A CUDA device that computes on the CPU and keeps CUDA's rules, where it is at hand.
PRETEND := $(abspath ../shared/tools)
GPU_TESTS = $(shell grep -rl --include='*.py' 'mark\.gpu' tests)

.PHONY: help demo test test-fast test-all docs-check device-check lint clean

help:
	@echo "make demo       install, draw the demo birds, run ours, protopnet and the black box, print the table and the finding"
	@echo "make test       install, lint, type-check, run the test suite"
	@echo "make test-all   the same with what repeats a test many times, such as 30 kills at random moments"
	@echo "make test-fast  the tests that take seconds"
	@echo "make docs-check README, STUDY, the published tables and the wheel (CI runs it beside make test)"
	@echo "make device-check  the GPU tests on a pretended CUDA device, where it is at hand (CI runs it too)"
	@echo "make lint       ruff and mypy alone"
	@echo "make clean      remove .venv and .bench"

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mlflow,qp]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,mlflow,qp,ray,slurm]'
	@touch $@

demo: .venv/installed
	$(BIN)/python -m bench run --suite demo

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(WORKERS) -m 'not exhaustive and not documents'

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest $(WORKERS) -m 'not slow and not exhaustive and not documents'

test-all: lint
	$(BIN)/python -m pytest $(WORKERS)

docs-check: .venv/installed-dev
	$(BIN)/python -m pytest $(WORKERS) -m documents tests/docs tests/test_pins.py

# Beside a real GPU `make test` runs these tests on it.
device-check: .venv/installed-dev
	@if $(BIN)/python -c 'import sys, torch; sys.exit(torch.cuda.is_available())'; then \
	    if [ -f $(PRETEND)/pretend_cuda.py ] && $(BIN)/python -c 'import sys, torch; sys.exit(not torch.version.cuda)'; then \
	        PRETEND_CUDA=1 PYTHONPATH=$(PRETEND) $(BIN)/python -m pytest -p pretend_cuda $(WORKERS) -m gpu $(GPU_TESTS); \
	    else echo 'device-check: skipped, it needs $(PRETEND)/pretend_cuda.py and a CUDA build of torch'; fi; \
	else echo 'device-check: skipped, make test has run the GPU tests on the GPU that is here'; fi

clean:
	rm -rf .venv .bench
