# make demo and make test do all the set-up themselves, in .venv. What each target does: make help.
#
# Variables: PYTHON (the interpreter to make .venv from), SLANGRAST_CXX (the host compiler), TORCH_INDEX (a package
# index that has torch's CPU build, where the default one has not), OUT (where the demo writes), PYTEST (further arguments),
# CUDA_TORCH (the torch for cuda-check, as pip names it; built for the major version of CUDA that nvcc has),
# PROTOTYPE and SCRIPT (what bench times beside slangrast, where it is there: benchmarks/README.md), BENCH (further arguments).

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

OUT ?= demo
PYTEST ?=
PROTOTYPE ?= ../shared/bench/proto_soft.cpp
SCRIPT ?= ../shared/bench/bench_torch_softras.py
BENCH ?=
export CUDA_TORCH ?= torch==2.11.0
python := .venv/bin/python
installed := .venv/.installed
cuda_installed := .venv-cuda/.installed

.PHONY: help demo test lint types unit wheel bench cuda-check format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(installed): pyproject.toml constraints.txt tools/set_up.sh
	@echo "Setting up .venv (a few minutes the first time)"
	@tools/set_up.sh .venv --editable '.[test]'
	@touch $@

demo: $(installed)  ## render a target mesh, reconstruct it from its images, write pictures to demo/
	.venv/bin/slangrast demo --out $(OUT)

test: lint types unit wheel  ## everything: linter, type checker, tests, the wheel in an empty environment

lint: $(installed)  ## ruff: lint and format
	$(python) -m ruff check .
	$(python) -m ruff format --check .

types: $(installed)  ## mypy on the package
	$(python) -m mypy

unit: $(installed)  ## pytest, a process for each core; for one test: make unit PYTEST="-k triangle"
	$(python) -m pytest -n auto --dist loadfile $(PYTEST)

wheel: $(installed)  ## build the wheel, install it into an empty environment, render one triangle
	tools/check_wheel.sh $(python)

bench: $(installed)  ## time the rasterizer beside hand-written code and plain PyTorch: the table of the README
	$(python) -m benchmarks --prototype $(PROTOTYPE) --script $(SCRIPT) $(BENCH)

$(cuda_installed): pyproject.toml constraints.txt tools/set_up_cuda.sh
	@echo "Setting up .venv-cuda with a CUDA torch (5 GB, a few minutes the first time)"
	@tools/set_up_cuda.sh .venv-cuda
	@touch $@

cuda-check: $(cuda_installed)  ## send every kernel through the CUDA engine, as far as a machine without a GPU can go
	.venv-cuda/bin/python -m tests.cuda_check

format: $(installed)  ## let ruff format and fix what it can
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

clean:  ## remove .venv and everything that was built
	rm -rf .venv .venv-cuda build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
