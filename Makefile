# make distill: the main job on real digits, in minutes on a CPU
# make test:    lint and tests
# make bench:   a step's speed beside PyTorch's, of the interpreter TORCH_PYTHON
# make tpu-aot: compiles the train steps for TPUs, without one; memory, collectives, FLOPs
# make lock:    new exact versions in requirements.lock (needs uv)

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/digits
TORCH_PYTHON ?=
RUN = $(VENV)/bin/python -m

.PHONY: distill test lint bench tpu-aot lock clean

distill: $(VENV)/ready
	$(RUN) rrd_jax.main --config=configs/digits.py --workdir=$(WORKDIR)

test: lint
	JAX_PLATFORMS=cpu $(RUN) pytest -n 2 --dist loadgroup

lint: $(VENV)/ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .

bench: $(VENV)/ready
	$(RUN) experiments.benchmark --torch_python=$(TORCH_PYTHON)

tpu-aot: $(VENV)/ready
	$(RUN) experiments.tpu_aot

lock:
	uv pip compile --universal --python-version 3.11 --extra test --no-emit-index-url \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV)

$(VENV)/ready: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
