# make demo | test | check | benchmarks of one machine: see README.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# two busy processes with two threads each crawl on two cores
TEST_ENV := OMP_NUM_THREADS=1 WANDB_MODE=offline

.PHONY: demo test test-fast test-gpu test-reliability check format install
.DEFAULT_GOAL := help

help:
	@echo "make demo       the whole road on handwritten digits, about 5 minutes on 2 CPU cores"
	@echo "make test       all tests but those of reliability"
	@echo "make test-fast  without those that start runs, kill processes or take seconds: while you work"
	@echo "make test-gpu   the tests that need a CUDA device"
	@echo "make test-reliability  kills, full disks, resumes: faults, attacks, DeepSpeed; under 20 minutes"
	@echo "make check      format, lint, types, import rules"
	@echo "make format     rewrite the files as 'make check' wants them"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python scripts/demo.py

test: install
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 -m "not reliability" --durations=15

test-fast: install
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 -m "not slow and not reliability"

test-gpu: install
	$(TEST_ENV) $(BIN)/python -m pytest -q -m gpu tests

test-reliability: install
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 -m "reliability or not reliability" tests/reliability tests/integration/test_deepspeed.py tests/integration/test_whole_runs.py tests/integration/test_toy.py

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src scripts tests
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
