# Two commands do everything: `make quickstart` and `make test`. The rest is for people who work on the project.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
STUDY ?= configs/studies/quickstart.yaml
# The quickstart's two runs train side by side where there is no GPU, and memory for both.
SLOTS ?= $(if $(filter configs/studies/quickstart.yaml,$(STUDY)),$(shell nvidia-smi -L >/dev/null 2>&1 || \
  awk '/MemTotal/ && $$2 > 10000000 {print "--slots 2"}' /proc/meminfo))

# Test processes side by side.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n > 4 ? 4 : n)))
# Tests that start Rays, ranks and controllers and wait for them: one at a time, since each takes all cores.
WHOLE_MACHINE := tests/e2e tests/faults tests/scheduling tests/training/test_ranks.py
ORDER := --random-order-bucket=module --random-order-seed=$(shell date +%s)
# Files that draw every picture of a report or write whole studies again and again; `make test` has them.
NOT_FAST := tests/planning/test_memory.py tests/report/test_plots.py tests/report/test_report.py \
  tests/report/test_documented.py tests/cli/test_results.py
FAST := tests/cli tests/config tests/contracts/test_plugins.py tests/contracts/test_reproducible.py tests/data \
  tests/planning tests/report tests/results tests/test_architecture.py tests/test_assets.py tests/test_docs.py \
  $(addprefix --ignore=,$(NOT_FAST))

.PHONY: quickstart test test-fast test-all test-slurm test-serve test-zoo check install clean

quickstart: $(VENV)/.installed
	$(BIN)/p2p-dist run $(STUDY) $(SLOTS) $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --ignore=tests/slurm \
	  $(addprefix --ignore=,$(WHOLE_MACHINE)) $(ARGS)
	$(BIN)/python -m pytest $(WHOLE_MACHINE) $(ARGS)

# What starts no process and needs no torch, in an order of chance that is printed.
test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --fast $(ORDER) $(FAST) $(ARGS)

test-all: $(VENV)/.dev
	P2P_DIST_FUZZ=2000 $(BIN)/python -m pytest $(ORDER) -m "not gpu" $(ARGS)

# Every family of models against plain transformers and PEFT; writes the table of docs/models.md.
test-zoo: $(VENV)/.dev
	$(BIN)/python -m tests.zoo.table

# A real Slurm of two nodes on this machine; says why where that cannot be.
test-slurm: $(VENV)/.dev
	tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm $(ARGS)

# vLLM, transformers serve, lm-eval and inspect-ai on exports, from .venv-serve; says why where one is not installed.
test-serve: $(VENV)/.dev
	tests/serve/install.sh
	$(BIN)/python -m pytest -m slow tests/serve $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

install: $(VENV)/.installed

$(VENV)/.venv: 
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "p2p-dist needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	touch $@

# Where pip can see PyTorch's own CPU index (set PIP_EXTRA_INDEX_URL), this takes the small CPU build.
$(VENV)/.installed: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[zero,quant]"
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[zero,quant,bench,energy,dev]"
	touch $@

clean:
	rm -rf $(VENV)
