VENV ?= .venv
WORKDIR ?= runs/digits
UNLABELLED ?= runs/unlabelled
DENSE ?= runs/dense
REPORT ?= runs/report
TORCH_PYTHON ?=
BENCH ?=
PYTHONS ?= 3.11,3.12,3.13
EXTRAS ?=
RUN = $(VENV)/bin/python -m
PYTEST = JAX_PLATFORMS=cpu $(RUN) pytest -n 2 --dist loadgroup
INSTALL = $(RUN) pip install --quiet --disable-pip-version-check

# The newest Python that runs and has venv and ensurepip; a pyenv shim may exist without an interpreter.
# The tests run on 3.11 and 3.13, a short suite on 3.12.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
  $$python -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help distill unlabelled dense report test test-long lint bench notebooks tpu-aot docs lock \
  test-versions dist wheelhouse clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

distill: $(VENV)/ready  ## Train a teacher, a student alone and a distilled student on digits: 2 to 4 minutes
	$(RUN) rrd_jax.main --config=configs/digits.py --workdir=$(WORKDIR)

# The second command fine-tunes the first one's student with ten labels per class, and trains the
# same network from random weights for comparison.
unlabelled: $(VENV)/ready  ## Distill without labels on digits, then fine-tune with ten labels per class
	$(RUN) rrd_jax.main --config=configs/unlabelled.py:digits --workdir=$(UNLABELLED)/student
	$(RUN) rrd_jax.main --config=configs/digits.py:resnet8,ce --config.data.train_split=train \
	  --config.data.per_class=10 --config.train.epochs=40 --config.train.batch_size=25 \
	  --config.student.checkpoint=$(UNLABELLED)/student --config.student.backbone_rate=0.1 \
	  --config.from_scratch --workdir=$(UNLABELLED)/tuned

dense: $(VENV)/ready  ## Distill without labels on generated drawings; patches in colors, mIoU of a probe on them
	$(RUN) rrd_jax.main --config=configs/dense.py:drawings --workdir=$(DENSE)

report: $(VENV)/ready  ## Compare five methods on digits over three seeds and write a report page
	$(RUN) experiments.study --study=experiments/studies/digits.py:ce,kd,crd,rrd,rrd+kd --seeds=3 \
	  --jobs=2 --workdir=$(REPORT)
	$(RUN) experiments.page --study=$(REPORT) --output=$(REPORT)/report.html \
	  --figures=$(REPORT)/figures

test: lint  ## Lint and run the quick tests
	$(PYTEST) -m "not long"

test-long: $(VENV)/ready  ## Run the long tests: whole jobs of each config, large networks, killed runs
	$(PYTEST) -m long

lint: $(VENV)/ready  ## Run ruff and codespell
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) codespell_lib

bench: $(VENV)/ready  ## Time a train step and compare it with PyTorch (TORCH_PYTHON=interpreter, BENCH=flags)
	$(RUN) experiments.benchmark --torch_python=$(TORCH_PYTHON) $(BENCH)

notebooks: $(VENV)/ready  ## Execute docs/tutorials and store their outputs
	JAX_PLATFORMS=cpu $(RUN) experiments.notebooks

tpu-aot: $(VENV)/ready  ## Compile the train steps for TPUs on a machine without one
	$(RUN) experiments.tpu_aot

# Warnings are errors, except the theme's notice about MkDocs 2.
docs: $(VENV)/ready  ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(RUN) mkdocs build --strict

lock:  ## Pin the dependencies of setup.cfg in requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --extra test --extra docs \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml \
	  -o requirements.lock

test-versions:  ## Run a short suite with the oldest and newest libraries on each of PYTHONS (needs uv)
	$(PYTHON) -m tests.versions --pythons=$(PYTHONS)

dist: $(VENV)/ready  ## Build the source distribution and the wheel into dist/
	$(INSTALL) build twine
	rm -rf dist
	$(RUN) build --no-isolation
	$(RUN) twine check --strict dist/*

wheelhouse: dist  ## Collect wheels of the package, its EXTRAS and all dependencies for the Dockerfile
	rm -rf build/wheelhouse
	$(RUN) pip wheel --disable-pip-version-check --constraint=requirements.lock \
	  --wheel-dir=build/wheelhouse "$$(ls dist/*.whl)$(EXTRAS:%=[%])"

clean:  ## Remove environments and build outputs
	rm -rf $(VENV) build dist site

$(VENV)/ready: requirements.lock setup.cfg pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "error: no Python 3.11 or newer with venv and ensurepip; set one: make PYTHON=..."; exit 1; }
	@echo "creating $(VENV) with $(PYTHON), $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	touch $@
