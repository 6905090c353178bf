# `make train` and `make test` do all the set-up, each what it needs: a virtual environment in .venv.
PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)

.PHONY: train test slow smoke compare check format
train: .venv/installed
	$(BIN)/python scripts/train_ngram.py

test: .venv/installed-dev
	$(BIN)/python -m pytest

slow: .venv/installed-dev # the tests that `make test` leaves out because they take many seconds
	$(BIN)/python -m pytest -m slow

smoke: .venv/installed # every loss, every stage of both scripts; distillation learns from the first run
	rm -rf outputs/smoke
	for task in ngram vision; do \
		train="$(BIN)/python scripts/train_$$task.py debug=smoke"; \
		$$train -m 'loss=glob(*,exclude=distillation*)' hydra.sweep.dir=outputs/smoke/$$task && \
		$$train loss=distillation hydra.run.dir=outputs/smoke/$$task/distillation \
			teacher=outputs/smoke/$$task/cross_entropy-seed1 || exit 1; \
	done

compare: .venv/installed # TensorBoard on the last sweep
	@last=$$(ls -t outputs/*/compare.html 2>/dev/null | head -n 1); \
	if [ -z "$$last" ]; then \
		echo "no sweep in outputs/ yet: $(BIN)/python scripts/train_ngram.py -m experiment=compare_losses"; exit 2; \
	fi; \
	$(BIN)/tensorboard --logdir "$$(dirname "$$last")"

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@
