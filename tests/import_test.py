"""What `import rrd_jax` costs, and what it offers."""

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


def _run(statement):
    """Processor seconds of a statement in a new process, and the packages that it imports."""
    command = [sys.executable, "-c", _REPORT, statement]
    seconds, packages = json.loads(subprocess.check_output(command, text=True))
    return seconds, set(packages)


@pytest.fixture(scope="module")
def costs():
    """{statement: (seconds, packages)}.

    Other processes only add time, so the least of three runs, in turns, is what a statement needs.
    """
    rounds = [{s: _run(s) for s in (_LIBRARIES, *_IMPORTS)} for _ in range(3)]
    return {s: min((costs[s] for costs in rounds), key=lambda cost: cost[0]) for s in rounds[0]}


@pytest.mark.parametrize("statement", _IMPORTS)
def test_the_pure_rooms_import_their_libraries_and_nothing_else(statement, costs):
    _, packages = costs[statement]
    assert {"rrd_jax", "jax"} <= packages
    assert not packages & _HEAVY
    installed = packages & set(metadata.packages_distributions()) - {"rrd_jax"}
    assert installed <= costs[_LIBRARIES][1]


@pytest.mark.long
@pytest.mark.parametrize("statement", _IMPORTS)
def test_the_pure_rooms_take_less_than_half_again_as_long_as_their_libraries(statement, costs):
    assert costs[statement][0] < 1.5 * costs[_LIBRARIES][0]


def test_rrd_jax_alone_imports_not_even_jax():
    assert "jax" not in _run("import rrd_jax; dir(rrd_jax); rrd_jax.__version__")[1]


def test_a_job_imports_what_reads_and_writes_checkpoints_once_it_does():
    packages = _run("from rrd_jax.jobs import evaluate, job")[1]
    assert "jax" in packages
    assert not packages & {"grain", "orbax", "tensorstore", "tensorflow_datasets"}


@pytest.mark.parametrize("name", rrd_jax.__all__)
def test_every_name_that_is_offered_is_there(name):
    assert name in dir(rrd_jax)
    assert getattr(rrd_jax, name) is getattr(rrd_jax, name)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'rrd_jax' has no attribute 'objectivs'"):
        _ = rrd_jax.objectivs
