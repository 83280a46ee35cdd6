# make distill:   the main job on real digits, in minutes on a CPU
# make unlabelled: a student of digits without labels, then fine-tuned with ten labels of each class
# make report:    five methods on digits, three seeds, their statistics on a page, on a CPU
# make test:      lint, and the tests that take minutes
# make test-long: the tests that take longer: each config to its end, large networks, kills
# make bench:     a step's speed beside PyTorch's, of the interpreter TORCH_PYTHON; BENCH: more flags
# make growth:    how cost grows with batch, memory, student, devices and epochs
# make notebooks: executes docs/tutorials again, and stores what they show
# make tpu-aot:   compiles the train steps for TPUs, without one; memory, collectives, FLOPs
# make docs:      the site, in site; site/index.html opens in a browser as it is
# make lock:      exact versions for what setup.cfg asks for, in requirements.lock (needs uv)
# make test-versions: a short suite with the oldest and newest of all libraries, on each of PYTHONS
#                 that is here (needs uv)
# make dist:      source distribution and wheel, in dist, as a package index takes them
# make wheelhouse: wheels of the package, with its EXTRAS, and all it needs, for the Dockerfile

VENV ?= .venv
WORKDIR ?= runs/digits
UNLABELLED ?= runs/unlabelled
REPORT ?= runs/report
TORCH_PYTHON ?=
BENCH ?=
PYTHONS ?= 3.11,3.12,3.13
EXTRAS ?=
RUN = $(VENV)/bin/python -m
PYTEST = JAX_PLATFORMS=cpu $(RUN) pytest -n 2 --dist loadgroup
INSTALL = $(RUN) pip install --quiet --disable-pip-version-check

# The newest Python that runs (a shim of pyenv may not) and can make an environment. The lock has
# wheels for all four; the tests have run on 3.11 and 3.13, a short suite on 3.12.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
  $$python -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null && echo $$python && break; done)

.PHONY: distill unlabelled report test test-long lint bench growth notebooks tpu-aot docs lock \
  test-versions dist wheelhouse clean

distill: $(VENV)/ready
	$(RUN) rrd_jax.main --config=configs/digits.py --workdir=$(WORKDIR)

# The second command starts from the first one's student: with ten labels of each class, beside the
# same from random weights.
unlabelled: $(VENV)/ready
	$(RUN) rrd_jax.main --config=configs/unlabelled.py:digits --workdir=$(UNLABELLED)/student
	$(RUN) rrd_jax.main --config=configs/digits.py:resnet8 --config.data.train_split=train \
	  --config.data.per_class=10 --config.train.epochs=40 --config.train.batch_size=25 \
	  --config.student.checkpoint=$(UNLABELLED)/student --config.student.backbone_rate=0.1 \
	  --config.from_scratch --workdir=$(UNLABELLED)/tuned

report: $(VENV)/ready
	$(RUN) experiments.study --study=experiments/studies/digits.py:ce,kd,crd,rrd,rrd+kd --seeds=3 \
	  --jobs=2 --workdir=$(REPORT)
	$(RUN) experiments.page --study=$(REPORT) --output=$(REPORT)/report.html \
	  --figures=$(REPORT)/figures

test: lint
	$(PYTEST) -m "not long"

test-long: $(VENV)/ready
	$(PYTEST) -m long

lint: $(VENV)/ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) codespell_lib

bench: $(VENV)/ready
	$(RUN) experiments.benchmark --torch_python=$(TORCH_PYTHON) $(BENCH)

growth: $(VENV)/ready
	$(RUN) experiments.growth

notebooks: $(VENV)/ready
	JAX_PLATFORMS=cpu $(RUN) experiments.notebooks

tpu-aot: $(VENV)/ready
	$(RUN) experiments.tpu_aot

# Warnings are errors; what the theme says of another program's next version is none of them.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(RUN) mkdocs build --strict

lock:
	uv pip compile --universal --python-version 3.11 --extra test --extra docs \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml \
	  -o requirements.lock

test-versions:
	$(PYTHON) -m tests.versions --pythons=$(PYTHONS)

dist: $(VENV)/ready
	$(INSTALL) build twine
	rm -rf dist
	$(RUN) build --no-isolation
	$(RUN) twine check --strict dist/*

wheelhouse: dist
	rm -rf build/wheelhouse
	$(RUN) pip wheel --disable-pip-version-check --constraint=requirements.lock \
	  --wheel-dir=build/wheelhouse "$$(ls dist/*.whl)$(EXTRAS:%=[%])"

clean:
	rm -rf $(VENV) build dist site

$(VENV)/ready: requirements.lock setup.cfg pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "error: no Python 3.11 or newer with venv and ensurepip; name one: make PYTHON=..."; exit 1; }
	@echo "$(VENV) is made with $(PYTHON), $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	touch $@
