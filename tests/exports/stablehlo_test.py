"""StableHLO files, which run in a separate process that imports only JAX and NumPy."""

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


def test_errors_of_the_reader_process_are_reported(file):
    runtime = stablehlo.FORMAT.open(file, 1)
    with pytest.raises(errors.InputError, match=r"cannot be run by jax: \w+: .*this is jax"):
        runtime(graphs.images(2, (9, 9, 1)))
    with pytest.raises(errors.InputError, match="has stopped"):
        runtime(graphs.images(2))


def test_a_crash_of_the_reader_process_is_reported_in_one_line(file, monkeypatch):
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
    # The header of this file is damaged.
    cut = tmp_path / "cut.stablehlo"
    cut.write_bytes(file.read_bytes()[:-9])
    assert stablehlo.FORMAT.recognizes(cut)


def test_a_network_with_a_python_callback_is_refused(tmp_path, monkeypatch):
    exportable = graphs.exportable()
    scalar = jax.ShapeDtypeStruct((), np.float32)

    def function(options):
        return lambda x: {"logits": x + jax.pure_callback(lambda: np.float32(1), scalar)}

    monkeypatch.setattr(type(exportable), "function", lambda self, options: function(options))
    with pytest.raises(errors.InputError, match="'grouped' cannot be written as StableHLO"):
        stablehlo.FORMAT.write(exportable, tmp_path / "file", interface.Options())
    assert not list(tmp_path.iterdir())
