# Two commands need nothing but git, Python 3.11+, pip and make: `make lab` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: lab lab-arms test lint format clean help
.DEFAULT_GOAL := help

help:
	@echo "make lab       base and cft in the lab world, from nothing to a result table (minutes, CPU)"
	@echo "make lab-arms  all five arms with three seeds (docs/lab-arms.md)"
	@echo "make test      all tests"
	@echo "make lint      ruff and mypy, as CI runs them"
	@echo "make format    lets ruff rewrite the code"
	@echo "make clean     removes .venv and caches; results in outputs/ stay"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cft_lab needs Python 3.11 or newer; set PYTHON=python3.11 (or newer)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lab: $(INSTALLED)
	$(BIN)/python run.py -m method=base,cft

lab-arms: $(INSTALLED)
	$(BIN)/python run.py -m method=base,sft,sft-verified,sft-teacher,cft seed=0,1,2

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
