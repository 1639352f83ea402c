# make demo     everything, on generated images: a few minutes on two CPU cores
# make train    CIFAR-100 with configs/baseline.yaml        CIFAR100=DIR-or-archive  ARGS="--train.epochs 3"
# make test     the test suite
# make test-all the same, and the job scripts on a real SLURM and the image really built: as root
# make test-fast  those of its tests that start no process, without lint
# make docs     the documentation site, into site/

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: install demo train test test-all test-fast lint docs clean

# Works from other folders too, where it then leaves its results: make -f /opt/regnet/Makefile demo
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
CIFAR100 ?=
ARGS ?=
# What the demo must reach: a trainer that shuffles labels, or whose ranks drift apart, stays far below.
BAR ?= 0.6
CONFIG ?= $(HERE)configs/baseline.yaml
# Where the environment is. One that is named (the container image names its own) is used as it is.
REGNET_VENV ?=
BIN := $(or $(REGNET_VENV),.venv)/bin
READY := $(if $(REGNET_VENV),,.venv/.ready)
PY := $(BIN)/python
# One process for each GPU; without one, two on the CPU.
NPROC ?= $(shell $(PY) -c "import torch; print(torch.cuda.device_count() or 2)")
# torchrun's --standalone does this too, but with the name localhost, which not every container can resolve.
ONE_MACHINE := --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1
TORCHRUN = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/torchrun $(ONE_MACHINE) --nproc_per_node=$(NPROC)

install: .venv/.ready

.venv/.ready: requirements.txt requirements-ffcv.txt tools/install.sh
	tools/install.sh
	touch $@

.venv/.ready-dev: .venv/.ready requirements-dev.txt
	.venv/bin/pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/.ready-docs: .venv/.ready requirements-docs.txt
	.venv/bin/pip install -q --disable-pip-version-check -r requirements-docs.txt
	touch $@

demo: $(READY)
	$(PY) -m data.convert --source synthetic --per-class 200 --out shards/demo --shards 4
	$(TORCHRUN) $(HERE)train_ddp.py --config $(HERE)configs/demo.yaml $(ARGS)
	@$(PY) $(HERE)tools/check_demo.py runs/demo $(BAR)

train: $(READY)
ifneq ($(CIFAR100),)
	$(PY) -m data.convert --source cifar100 --root "$(CIFAR100)" --out shards/cifar100 --shards 4
else
	@test -e shards/cifar100/manifest.json || \
		$(PY) -m data.convert --source cifar100 --root downloads --download --out shards/cifar100 --shards 4
endif
	$(TORCHRUN) $(HERE)train_ddp.py --config $(CONFIG) $(ARGS)

# Two more than there are cores, for tests wait for processes now and then; not many more, for they need memory.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 5 ? n + 2 : 6)))
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: lint
	$(PYTEST) -m "not cluster" $(ARGS)

test-all: lint
	$(PYTEST) $(ARGS)

# Those that start processes import what does. Random configurations take as long as half of what is left.
FAST = $(shell cd $(HERE)tests && grep -LE '^from (benchmarks|images|nursery|programs|test_convert)' test_*.py)
test-fast: .venv/.ready-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -q $(FAST:%=tests/%) -k "not test_any_ and not enormous and not reads_back"

lint: .venv/.ready-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/shellcheck -x $$(git grep --untracked -lE '^#!.*sh( |$$)')
	.venv/bin/hadolint Dockerfile

# mkdocs.yml is strict. The variable silences the theme's announcement of its successor.
docs: .venv/.ready-docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

clean:
	rm -rf .venv site runs shards downloads
