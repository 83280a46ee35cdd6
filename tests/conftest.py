"""Eight fake CPU devices, and fixtures that several tests share."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import chex
import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where this test process keeps prepared data sets."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def one_device(monkeypatch):
    """Runs of the trainer use one of the eight devices."""
    from rrd_jax import parallel

    mesh = parallel.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "make_mesh", lambda: mesh)


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    """chex counts traces by a function's code, over all tests of a process."""
    chex.clear_trace_counter()
