# `make demo` and `make test` do all the set-up; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# On a machine without a GPU, install the CPU builds of PyTorch: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/.*"torch==\(.*\)".*/\1/p' pyproject.toml)
# A package index that builds its own files has other hashes than PyPI: make setup HASHES=no installs the same versions unchecked.
HASHES ?= yes
LOCK = $(if $(filter no,$(HASHES)),<(grep -oE '^[^ ]+==[^ ]+' requirements.lock),requirements.lock --require-hashes)
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
PIP_TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True
export MLFLOW_DISABLE_TELEMETRY := true
ACTIVATE := source $(BIN)/activate

.PHONY: help setup demo test test-full test-spark test-milvus lint bench docs serve ui kuairand serve-kuairand lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv and install everything into it

# Every package is checked against its hash, except PyTorch, whose CPU and CUDA builds have one version number but different
# files and dependencies (the shared ones are in the lock), and this package itself.
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

# `pytest` without -n is one process: for one file, or a debugger. What runs where and in which order is in tests/conftest.py.
test: lint ## run lint and all tests
	@$(ACTIVATE) && python -m pytest -n $(WORKERS)

test-full: setup ## run the tests that take minutes: faults by the hundred, under load
	@$(ACTIVATE) && python -m pytest -m full

test-spark: setup ## install pyspark, 491 MB, and run its tests on two workers of this machine
	@command -v java >/dev/null || { echo "Java is missing; run: apt-get install default-jre-headless"; exit 1; }
	@$(PIP) --no-build-isolation -e '.[spark]' -c <(grep -oE '^[^ ]+==[^ ]+' requirements.lock)
	@$(ACTIVATE) && python -m pytest tests/spark

test-milvus: setup ## install pymilvus with Milvus Lite, and run the tests of vectors on it
	@$(PIP) --no-build-isolation -e '.[milvus]' -c <(grep -oE '^[^ ]+==[^ ]+' requirements.lock)
	@$(ACTIVATE) && python -m pytest tests/unit/retrieval -k milvus

lint: setup ## check style and import rules
	@$(ACTIVATE) && ruff check . && ruff format --check . && lint-imports

# The others need files that are not in the repository or another interpreter, or run other programs.
BENCHMARKS := $(filter-out ranking rectools_sasrec retrieval spark worlds record, \
  $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

bench: setup ## run every benchmark of the sample and of simulated logs, one JSON line each
	@$(ACTIVATE) && for name in $(BENCHMARKS); do python -m benchmarks.$$name || exit; done

docs: setup ## render the figures of README.md and docs/ from the records of runs
	@$(ACTIVATE) && python -m benchmarks.rendering

ui: setup ## show the runs in MLflow at http://127.0.0.1:5000
	@$(ACTIVATE) && mlflow ui

kuairand: setup ## run the pipeline on KuaiRand-Pure: make kuairand KUAIRAND_ROOT=/path/to/KuaiRand-Pure
	@test -n "$(KUAIRAND_ROOT)" || { echo "KUAIRAND_ROOT is not set; run: make kuairand KUAIRAND_ROOT=/path/to/KuaiRand-Pure"; exit 1; }
	@$(ACTIVATE) && KUAIRAND_ROOT="$(KUAIRAND_ROOT)" python -m watchnext.lifecycle pipeline data=kuairand

serve-kuairand: setup ## serve what `make kuairand` built
	@echo "http://127.0.0.1:3000 (Ctrl-C stops)"
	@$(ACTIVATE) && WATCHNEXT_RELEASES=outputs/kuairand/releases WATCHNEXT_STORE=outputs/kuairand/store exec bentoml serve

# Locked versions are kept where pyproject.toml allows them; remove requirements.lock for the newest. It has the hashes of all
# files of a version, so that it works on other processors too. Dependencies of PyTorch's CUDA builds are left out, and Spark and Milvus.
lock: ## write requirements.lock and its part for serving from pyproject.toml, with hashes
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) uv
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra train --extra dev --generate-hashes --no-header --no-annotate --no-emit-package torch \
	  --python $(BIN)/python --output-file requirements.lock
	@awk '/^[^ ]/ { kept = !/^(nvidia-|triton|cuda)/ || /^nvidia-ml-py==/ } kept' requirements.lock > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@$(BIN)/uv pip compile --quiet pyproject.toml --generate-hashes --no-header --no-annotate --python $(BIN)/python \
	  --constraints <(grep -oE '^[^ ]+==[^ ]+' requirements.lock) --output-file deploy/requirements-serving.lock

clean: ## remove everything built, with .venv and runs; data and history stay
	rm -rf $(VENV) outputs releases store runs mlruns mlflow.db mlflow.db.lock .dvc/cache .dvc/tmp
	git checkout -q -- outputs 2>/dev/null || true
