# make setup | demo | test | test-cluster | test-all | lint | chaos | clean. Everything runs in .venv, which `setup` makes and keeps current.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.foldline-setup
# Two processes share the cores in the demo and the tests: OpenMP threads that spin while they wait would steal them.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo test test-cluster test-all lint chaos gpu-check clean
setup: $(STAMP)

# deepspeed is a source package without extensions here: it is built against the torch installed in the step before.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt pip setuptools wheel packaging ninja py-cpuinfo numpy torch
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[train,dev]'
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

# WORKERS test files run side by side, many of which start two ranks; 0: one after another.
WORKERS ?= 2
test: setup
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile

# Jobs on a real Slurm, and two hosts with a network between them: Debian's slurmctld slurmd slurm-client munge iproute2, and root.
test-cluster: setup
	$(BIN)/python -m pytest -m slow tests/cluster

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(VENV)/src && mkdir -p $(VENV)/src/foldline  # mypy takes the package's name from the folder's, and would read runs/ too
	ln -s $(CURDIR)/{__init__,cli,errors,settings,whole_file}.py $(CURDIR)/{cluster,data_store,export,model,trainer} $(VENV)/src/foldline
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p foldline

# A real training under 20 faults, held against the same training without; SEED=S gives the faults of an earlier time again.
chaos: setup
	test -d runs/chaos/store || $(BIN)/foldline ingest examples/demo --store runs/chaos/store
	$(BIN)/foldline chaos --config examples/chaos.toml --faults 20 $(if $(SEED),--seed $(SEED))

# Runs on CUDA machines without network: not in .venv, but with $(PYTHON) and what that has (docs/gpu-check.md).
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py $(ARGS)

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
