# SparseSight: from a bare checkout to an answer, or to a tested tree. `make help` lists the targets.
#
# PYTHON       the interpreter that creates .venv (an existing .venv is used as it is)
# TORCH_INDEX  a package index for torch alone, such as PyTorch's own index of CPU builds
# PIP_FLAGS    how much pip says; empty for its usual progress bars
# PYTEST_ARGS  further arguments for pytest, such as "-k ops -x"
PYTHON ?= python3
TORCH_INDEX ?=
PIP_FLAGS ?= -qq
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The environment variables hold the pins for pip's isolated build environments as well.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check

.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

# Touched last: a failed or interrupted installation leaves no stamp and is taken up again by the next call.
# torch goes first and alone, so that nothing else can choose its build. lmms-eval goes last and alone: most of what it
# asks for is not needed here, and torchvision would do harm (pyproject.toml, extra "harness").
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "==> creating $(VENV) with $$($(PYTHON) --version)" && \
		$(PYTHON) -m venv $(VENV); }
	@echo "==> installing torch (the largest download)"
	@$(PIP) install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "==> installing sparsesight and its dependencies"
	@$(PIP) install $(PIP_FLAGS) --no-warn-conflicts --editable '.[dev,harness,plots]'
	@$(PIP) install $(PIP_FLAGS) --no-deps lmms-eval
	@touch $@
	@echo "==> $(VENV) is ready"

.PHONY: install
install: $(STAMP) ## create .venv and install everything into it

.PHONY: demo
demo: $(STAMP) ## ask the bundled model about a bundled picture
	@$(BIN)/sparsesight ask

.PHONY: test
test: lint pytest ## lint, then the whole test suite

.PHONY: lint
lint: $(STAMP) ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

.PHONY: pytest
pytest: $(STAMP) ## the test suite alone
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: check
check: test ## the same as make test

.PHONY: format
format: $(STAMP) ## let ruff mend imports and layout
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

.PHONY: families
families: $(STAMP) ## write the README's table of model families
	$(BIN)/python -m tests.hf.families.table

.PHONY: dist
dist: $(STAMP) ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

.PHONY: clean
clean: ## remove caches and build results, not .venv
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
