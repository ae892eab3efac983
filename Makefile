# Two commands set everything up on a machine that has Python 3.11 or newer and git: make demo, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV)/bin)
# What is installed: the package alone, and what tests, lint and docs need beside it.
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
INSTALL = $(BIN)/python -m pip install --constraint constraints.txt --editable
# A file's tests stay in one process: they share what they have made.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 pytest --numprocesses $(WORKERS) --dist loadfile
# The tests run "dvc" and "palm-cache": both must be found.
export PATH := $(BIN):$(PATH)

.PHONY: help demo test test-all lint docs check bench gpu mini clean

help:
	@echo "make demo      environment, then the demo: sounds, features, heads, score table, report"
	@echo "make test      environment, tests"
	@echo "make test-all  the same with kills, clusters and browsers"
	@echo "make docs      the documentation site, in docs/site"
	@echo "make check     what CI runs: lint, documentation and all tests"
	@echo "make bench     time PALM's training against a loop written by hand (some minutes)"
	@echo "make gpu       what a GPU does: clips per second, then tests (8 minutes; needs CUDA)"
	@echo "make mini      train the embedded encoder anew (about a quarter of an hour)"
	@echo "make clean     remove the environment, the demo and all results in runs and results"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing palm-cache into $(VENV): on Linux a download of 3 GB, 6 GB on disk, some minutes."
	@echo "Nearly all of it is torch with CUDA. Without a GPU a tenth of it will do: stop here, and run this first:"
	@echo "    . $(VENV)/bin/activate && pip install uv && uv pip install --torch-backend cpu torch torchaudio"
	$(INSTALL) .
	@touch $@

$(DEV): $(READY)
	@echo "Installing what tests, lint and documentation need beside it: 1 GB on disk, a minute."
	$(INSTALL) '.[dev]'
	@touch $@

demo: $(READY)
	palm-cache synthesise --params params.yaml
	palm-cache extract --params params.yaml
	palm-cache fit --params params.yaml
	palm-cache report
	@echo
	@echo "Next, with the environment active (. $(VENV)/bin/activate):"
	@echo "    palm-cache predict runs/demo/mini/heads.h5 data/raw/demo/audio/fold1"
	@echo "    palm-cache explore data/features/demo/mini.zarr --run palm-16shots --audio data/raw/demo"
	@echo "    palm-cache fit --dataset demo --shots 8"

test: $(DEV)
	$(PYTEST) -m "not slow"

test-all: $(DEV)
	$(PYTEST)

lint: $(DEV)
	ruff check
	ruff format --check
	mypy
	lint-imports
	codespell

docs: $(DEV)
	cd docs && zensical build --clean --strict

check: lint docs test-all

bench: $(READY)
	python -m pipelines.benchmarks.fit

gpu: $(DEV)
	python -m pipelines.benchmarks.gpu

mini: $(READY)
	python -m pipelines.mini.train

clean:
	rm -rf $(VENV) docs/site docs/.cache .dvc/cache .dvc/tmp dvc_plots
	rm -rf data/raw/demo data/features/demo data/features/openvino runs
	rm -f explore.html answers.csv night.txt demo.h5 demo.onnx* demo.safetensors*
	@# What is known of every content goes where no other dataset has a store.
	@[ -n "$$(ls data/features 2>/dev/null)" ] || rm -rf data/features
	git clean -fdXq results
