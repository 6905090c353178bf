# `make train` and `make test` do all the set-up: a virtual environment in .venv, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test smoke check format
train: .venv/installed
	$(BIN)/python scripts/train_ngram.py

test: .venv/installed
	$(BIN)/python -m pytest

smoke: .venv/installed # every loss, every stage of the script, in seconds
	$(BIN)/python scripts/train_ngram.py -m 'loss=glob(*,exclude=distillation)' debug=smoke

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@
