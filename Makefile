# make setup | demo | test | test-all | lint | clean. Everything runs in .venv, which `setup` makes and keeps current.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.foldline-setup
# Two CPU processes share the machine in the demo and the tests: spinning OpenMP threads would steal each other's cores, and
# glibc would keep freed activation buffers.
export OMP_WAIT_POLICY := PASSIVE
export MALLOC_MMAP_THRESHOLD_ := 1048576
export MALLOC_TRIM_THRESHOLD_ := 1048576

.PHONY: setup demo test test-all lint clean
setup: $(STAMP)

# deepspeed is a source package without extensions here: it is built against the torch installed in the step before.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt pip setuptools wheel packaging ninja py-cpuinfo numpy torch
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[train,dev]'
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/foldline  # mypy takes the package name from the folder's
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p foldline

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
