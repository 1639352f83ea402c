# `make` prints the targets.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install install-dev demo train test test-all test-fast lint docs clean

# Also works from another directory, to which the results are then written: make -f /opt/regnet/Makefile demo
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
CIFAR100 ?=
ARGS ?=
# Validation accuracy that the demo must exceed. Shuffled labels or diverged ranks stay far below it.
MIN_ACCURACY ?= 0.6
CONFIG ?= $(HERE)configs/baseline.yaml
# Directory of an existing environment, used as it is (the container image sets it). Empty: .venv, created on demand.
REGNET_VENV ?=
BIN := $(or $(REGNET_VENV),.venv)/bin
READY := $(if $(REGNET_VENV),,.venv/.ready)
PY := $(BIN)/python
# One process per GPU; without a GPU, two on the CPU.
NPROC ?= $(shell $(PY) -c "import torch; print(torch.cuda.device_count() or 2)")
# Like torchrun's --standalone, which uses the host name localhost: some containers cannot resolve it.
SINGLE_NODE := --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1
TORCHRUN = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/torchrun $(SINGLE_NODE) --nproc_per_node=$(NPROC)

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'CIFAR100=PATH    local copy of CIFAR-100 for train: archive or folder (default: download)'
	@echo 'CONFIG=FILE      configuration for train (default: configs/baseline.yaml)'
	@echo 'ARGS="..."       options of the trainer (demo, train) or of pytest (test, test-all)'
	@echo 'NPROC=N          training processes (default: one per GPU, or two on a CPU)'
	@echo 'REGNET_VENV=DIR  existing environment to use instead of .venv'

install: .venv/.ready ## create .venv with all requirements and build FFCV

.venv/.ready: requirements.txt requirements-ffcv.txt tools/install.sh
	tools/install.sh
	touch $@

install-dev: .venv/.ready-dev ## the same, with the requirements of tests and checks

.venv/.ready-dev: .venv/.ready requirements-dev.txt
	.venv/bin/pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/.ready-docs: .venv/.ready requirements-docs.txt
	.venv/bin/pip install -q --disable-pip-version-check -r requirements-docs.txt
	touch $@

demo: $(READY) ## train on generated images and check the accuracy: minutes on a CPU, no download
	$(PY) -m data.convert --source synthetic --per-class 200 --out shards/demo --shards 4
	$(TORCHRUN) $(HERE)train_ddp.py --config $(HERE)configs/demo.yaml $(ARGS)
	@$(PY) $(HERE)tools/check_demo.py runs/demo $(MIN_ACCURACY)

train: $(READY) ## convert CIFAR-100 and train on it
ifneq ($(CIFAR100),)
	$(PY) -m data.convert --source cifar100 --root "$(CIFAR100)" --out shards/cifar100 --shards 4
else
	@test -e shards/cifar100/manifest.json || \
		$(PY) -m data.convert --source cifar100 --root downloads --download --out shards/cifar100 --shards 4
endif
	$(TORCHRUN) $(HERE)train_ddp.py --config $(CONFIG) $(ARGS)

# Two workers more than cores, because tests wait for processes at times.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 14 ? n + 2 : 16)))
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: lint ## run lint and a little of everything: minutes on two cores
	$(PYTEST) $(ARGS)

test-all: lint ## run lint and all tests with many cases, a SLURM cluster and the image among them (as root)
	$(PYTEST) --thorough $(ARGS)

# Test files that start processes import these helpers.
FAST = $(shell cd $(HERE)tests && grep -LE '^from (benchmarks|images|loading|fork_server|processes|browser|converting)' test_*.py)
test-fast: .venv/.ready-dev ## run the tests that start no processes, without lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -q $(FAST:%=tests/%) $(ARGS)

lint: .venv/.ready-dev ## check format, style, types, imports, shell scripts and the Dockerfile
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/shellcheck -x $$(git grep --untracked -lE '^#!.*sh( |$$)')
	.venv/bin/hadolint Dockerfile

# mkdocs.yml is strict. The variable silences the theme's announcement of its successor.
docs: .venv/.ready-docs ## build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

clean: ## delete the environment, the site, runs, shards and downloads
	rm -rf .venv site runs shards downloads
