# Two commands set everything up on a machine that has Python 3.11 or newer and git: make demo, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV)/bin)
READY := $(VENV)/.ready
# DVC runs "palm-cache" and the tests run "dvc": both must be found.
export PATH := $(BIN):$(PATH)

.PHONY: help demo test lint docs check bench gpu mini clean

help:
	@echo "make demo   environment, pipeline on the demo data, score table"
	@echo "make test   environment, tests"
	@echo "make docs   the documentation site, in docs/site"
	@echo "make check  what CI runs: lint, documentation and tests"
	@echo "make bench  time PALM's training against a loop written by hand (some minutes)"
	@echo "make gpu    what a GPU does: tests, then clips per second (8 minutes; needs CUDA)"
	@echo "make mini   train the embedded encoder anew (about a quarter of an hour)"
	@echo "make clean  remove the environment and what the demo made"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	dvc repro
	palm-cache report --out results

test: $(READY)
	pytest

lint: $(READY)
	ruff check
	ruff format --check
	mypy
	lint-imports
	codespell

docs: $(READY)
	cd docs && zensical build --clean --strict

check: lint docs test

bench: $(READY)
	python -m pipelines.benchmarks.fit

gpu: $(READY)
	python -m pipelines.benchmarks.gpu

mini: $(READY)
	python -m pipelines.mini.train

clean:
	rm -rf $(VENV) data/raw/demo data/features/demo results docs/site docs/.cache
