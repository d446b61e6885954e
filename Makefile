# Two commands matter: `make demo` and `make test`. Both set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
# Package index of the PyTorch build; empty takes pip's default. See README, "GPU".
TORCH_INDEX ?=
TORCH := torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

DEMO_SMILES := O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]
DEMO_OUT ?= runs/demo
DEMO_N ?= 16

.PHONY: demo venv test lint clean

demo: $(VENV)/.stamp-run  ## SMILES to ranked crystals, in one command
	$(BIN)/csp run '$(DEMO_SMILES)' --name OBEQOD --z 2,4 --n $(DEMO_N) --out $(DEMO_OUT)

venv: $(VENV)/.stamp-dev  ## environment with everything the tests need

test: venv  ## the whole suite, linters first
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not gpu" \
		-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "packflow-csp needs Python 3.11 or newer; run 'make PYTHON=/path/to/python3.11 ...'."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# PyTorch comes first and alone, so that no other package can pull another build of it.
$(VENV)/.stamp-torch: | $(BIN)/python
	@echo "Installing PyTorch ..."
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.stamp-run: pyproject.toml $(VENV)/.stamp-torch
	@echo "Installing packflow-csp (about a minute) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml $(VENV)/.stamp-torch
	@echo "Installing packflow-csp with what the tests need ..."
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.stamp-run
