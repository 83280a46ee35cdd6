"""Eight fake CPU devices, and fixtures that several tests share."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile

# A shell's job in the background ignores Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Inherited by the worker processes of pytest-xdist and by the programs that tests start: most of
# the suite's time is compilation, so it is done quickly, and once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# As commands have it: jaxlib 0.10.1 prints a page for each program that it reads from the cache.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # a folder that is given outlives the tests
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rrd_jax_tests_")
    os.environ["RRD_JAX_TESTS_CACHE_OWNER"] = str(os.getpid())

import chex
import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")  # a shape that is widened silently is a slip
flags.FLAGS.mark_as_parsed()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that read what their module makes once run in one process, or each would make it."""
    for item in items:
        found = item._fixtureinfo.name2fixturedefs.values()
        of_module = (f for fixtures in found for f in fixtures if f.scope == "module")
        shares = any(fixture.baseid.endswith(item.path.name) for fixture in of_module)
        if shares and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_sessionfinish():
    """The process that made the folder of compiled programs removes it."""
    if os.environ.get("RRD_JAX_TESTS_CACHE_OWNER") == str(os.getpid()):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where this test process keeps prepared data sets."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Starts whole commands; data sets that they prepare lie in a folder of their own."""
    from tests.forks import Commands

    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("commands")))
            started = stack.enter_context(Commands())
        yield started


def use_one_device(patch):
    """Makes runs of the trainer use one of the eight devices, as long as the patch lasts."""
    from rrd_jax import parallel

    mesh = parallel.make_mesh(jax.devices()[:1])
    patch.setattr(parallel, "make_mesh", lambda: mesh)


@pytest.fixture
def one_device(monkeypatch):
    """Runs of the trainer use one of the eight devices."""
    use_one_device(monkeypatch)


@pytest.fixture(scope="module")
def tiny_network():
    """`tiny` is the name of a network of three convolutions, which compiles quickly."""
    from tests import tiny

    with tiny.registered():
        yield


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory):
    """The workdir of a trained `tiny`, for jobs that need a teacher; nothing writes to it."""
    from tests import launch, tiny

    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch, tiny.registered():
        use_one_device(patch)
        launch.run(launch.digits("smoke,tiny,ce"), folder)
    return folder


@pytest.fixture
def program():
    """Finds a program of this environment or machine; skips the test where there is none."""
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return lambda name: shutil.which(name, path=path) or pytest.skip(f"{name} is not installed")


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    """chex counts traces by a function's code, over all tests of a process."""
    chex.clear_trace_counter()
