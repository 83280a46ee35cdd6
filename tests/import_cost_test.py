"""The time, the imported packages and the names of `import rrd_jax`."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

import rrd_jax

_HEAVY = {"PIL", "cv2", "grain", "orbax", "tensorboardX", "tensorflow_datasets", "tensorstore"}
_LIBRARIES = "import flax, jax, optax"
_IMPORTS = ["from rrd_jax import objectives", "from rrd_jax import memory, networks"]
_REPORT = """
import json, sys, time
start = time.process_time()
exec(sys.argv[1])
seconds = time.process_time() - start
print(json.dumps([seconds, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def _import_cost(statement):
    """Returns the CPU seconds of a statement in a new process, and the packages that it imports."""
    command = [sys.executable, "-c", _REPORT, statement]
    seconds, packages = json.loads(subprocess.check_output(command, text=True))
    return seconds, set(packages)


@pytest.fixture(scope="module")
def costs():
    """{statement: (seconds, packages)}: the fastest of three interleaved runs of each statement.

    Other processes can only add time.
    """
    rounds = [{s: _import_cost(s) for s in (_LIBRARIES, *_IMPORTS)} for _ in range(3)]
    return {s: min((costs[s] for costs in rounds), key=lambda cost: cost[0]) for s in rounds[0]}


@pytest.mark.parametrize("statement", _IMPORTS)
@pytest.mark.long
def test_pure_packages_import_only_their_libraries(statement, costs):
    _, packages = costs[statement]
    assert {"rrd_jax", "jax"} <= packages
    assert not packages & _HEAVY
    installed = packages & set(metadata.packages_distributions()) - {"rrd_jax"}
    assert installed <= costs[_LIBRARIES][1]


@pytest.mark.long
@pytest.mark.parametrize("statement", _IMPORTS)
def test_pure_packages_import_in_less_than_1_5_times_the_time_of_their_libraries(statement, costs):
    assert costs[statement][0] < 1.5 * costs[_LIBRARIES][0]


def test_importing_rrd_jax_does_not_import_jax():
    assert "jax" not in _import_cost("import rrd_jax; dir(rrd_jax); rrd_jax.__version__")[1]


def test_jobs_import_orbax_grain_and_tensorflow_datasets_on_first_use():
    packages = _import_cost("from rrd_jax.jobs import evaluate, job")[1]
    assert "jax" in packages
    assert not packages & {"grain", "orbax", "tensorstore", "tensorflow_datasets"}


@pytest.mark.parametrize("name", rrd_jax.__all__)
def test_every_public_name_exists(name):
    assert name in dir(rrd_jax)
    assert getattr(rrd_jax, name) is getattr(rrd_jax, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'rrd_jax' has no attribute 'objectivs'"):
        _ = rrd_jax.objectivs
