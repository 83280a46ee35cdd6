"""StableHLO files run in a process that imports only jax and numpy, and in any other."""

import signal

import jax.export
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.exports import interface, stablehlo
from tests.exports import graphs


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "student.stablehlo"
    stablehlo.FORMAT.write(graphs.exportable(), path, interface.Options())
    return path


def test_errors_of_the_process_that_runs_a_file_are_reported(file):
    runtime = stablehlo.FORMAT.open(file, 1)
    with pytest.raises(errors.InputError, match=r"cannot be run by jax: \w+: .*this is jax"):
        runtime(graphs.images(2, (9, 9, 1)))
    with pytest.raises(errors.InputError, match="has stopped"):
        runtime(graphs.images(2))


def test_the_end_of_that_process_is_one_line(file, monkeypatch):
    monkeypatch.setattr(stablehlo, "_READER", "print(1/0)")
    with pytest.raises(errors.InputError, match="exit code 1: ZeroDivisionError"):
        stablehlo.FORMAT.open(file, 0)
    monkeypatch.setattr(
        stablehlo, "_READER", f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})"
    )
    with pytest.raises(errors.InputError, match=f"exit code -{signal.SIGKILL:d}"):
        stablehlo.FORMAT.open(file, 0)


def test_any_program_with_jax_runs_a_file(file, tmp_path):
    function = jax.export.deserialize(file.read_bytes())
    assert set(function.platforms) == {"cpu", "cuda", "tpu"}
    images = graphs.exportable().normalize(graphs.images(7))
    outputs = {name: np.asarray(value) for name, value in function.call(images).items()}
    graphs.check_same(outputs, graphs.exportable()(graphs.images(7)))
    cut = tmp_path / "cut.stablehlo"  # whose header is damaged
    cut.write_bytes(file.read_bytes()[:-9])
    assert stablehlo.FORMAT.recognizes(cut)


def test_what_only_this_process_can_compute_is_refused(tmp_path, monkeypatch):
    exportable = graphs.exportable()
    same = jax.ShapeDtypeStruct((), np.float32)

    def function(options):
        return lambda x: {"logits": x + jax.pure_callback(lambda: np.float32(1), same)}

    monkeypatch.setattr(type(exportable), "function", lambda self, options: function(options))
    with pytest.raises(errors.InputError, match="'grouped' cannot be written as StableHLO"):
        stablehlo.FORMAT.write(exportable, tmp_path / "file", interface.Options())
    assert not list(tmp_path.iterdir())
