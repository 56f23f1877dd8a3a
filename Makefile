# `make demo` and `make test` do all the set-up; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's CPU builds elsewhere than here: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/.*"torch==\(.*\)".*/\1/p' pyproject.toml)
# An index that builds files of its own has other hashes than PyPI: make setup HASHES=no takes the same versions unchecked.
HASHES ?= yes
LOCK = $(if $(filter no,$(HASHES)),<(grep -oE '^[^ ]+==[^ ]+' requirements.lock),requirements.lock --require-hashes)
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
PIP_TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True
export MLFLOW_DISABLE_TELEMETRY := true
ACTIVATE := source $(BIN)/activate

.PHONY: help setup demo test lint bench docs serve ui kuairand serve-kuairand lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv and install everything into it

# Every file is checked against its hash but two: PyTorch's, as its builds for CPU and for CUDA differ under one version and what
# they need differs too (its other dependencies are in the lock), and this package's own.
$(VENV)/.ready: pyproject.toml requirements.lock
	@echo "installing into $(VENV), about two minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --no-deps -r $(LOCK)
	@$(PIP) $(PIP_TORCH) torch==$(TORCH)
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/pip check
	@touch $@

demo: setup ## run the pipeline on the sample and serve it at http://127.0.0.1:3000
	@$(ACTIVATE) && dvc repro
	@$(ACTIVATE) && { test -e releases/current || dvc repro --force --single-item release store recommendations; }
	@$(MAKE) --no-print-directory serve

serve: setup ## serve releases/current
	@echo "http://127.0.0.1:3000 (Ctrl-C stops)"
	@$(ACTIVATE) && exec bentoml serve

test: lint ## lint and all tests
	@$(ACTIVATE) && python -m pytest

lint: setup ## style, and who may import whom
	@$(ACTIVATE) && ruff check . && ruff format --check . && lint-imports

# The others want files that are not here, or an interpreter of their own, or run other programs.
BENCHMARKS := $(filter-out ranking rectools_sasrec retrieval worlds record, \
  $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

bench: setup ## every benchmark of the sample and of simulated logs, one JSON line each
	@$(ACTIVATE) && for name in $(BENCHMARKS); do python -m benchmarks.$$name || exit; done

docs: setup ## render the figures of README.md and docs/ from the records of runs
	@$(ACTIVATE) && python -m benchmarks.rendering

ui: setup ## look at the runs: http://127.0.0.1:5000
	@$(ACTIVATE) && mlflow ui

kuairand: setup ## the same stages on KuaiRand-Pure: make kuairand KUAIRAND_ROOT=/path/to/KuaiRand-Pure
	@test -n "$(KUAIRAND_ROOT)" || { echo "name the unpacked data: make kuairand KUAIRAND_ROOT=/path/to/KuaiRand-Pure"; exit 1; }
	@$(ACTIVATE) && KUAIRAND_ROOT="$(KUAIRAND_ROOT)" python -m watchnext.lifecycle pipeline data=kuairand

serve-kuairand: setup ## serve what `make kuairand` built
	@echo "http://127.0.0.1:3000 (Ctrl-C stops)"
	@$(ACTIVATE) && WATCHNEXT_RELEASES=outputs/kuairand/releases WATCHNEXT_STORE=outputs/kuairand/store exec bentoml serve

# Versions stay where pyproject.toml allows them: remove requirements.lock for the newest. The hashes are those of all files of a
# version, so that other processors install from it too. What PyTorch's CUDA builds need is left out, as they bring it.
lock: ## write requirements.lock: what pyproject.toml needs, with hashes
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) uv
	@$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --generate-hashes --no-header --no-annotate --no-emit-package torch \
	  --python $(BIN)/python --output-file requirements.lock
	@awk '/^[^ ]/ { kept = !/^(nvidia-|triton|cuda)/ || /^nvidia-ml-py==/ } kept' requirements.lock > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## remove what was built, .venv and runs included; data and history stay
	rm -rf $(VENV) outputs releases store runs mlruns mlflow.db mlflow.db.lock .dvc/cache .dvc/tmp
	git checkout -q -- outputs 2>/dev/null || true
