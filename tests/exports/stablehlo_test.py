"""StableHLO files run in a process that imports only jax and numpy, and in any other."""

import signal

import jax.export
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.exports import interface, stablehlo
from tests import fresh
from tests.exports import graphs

_FAMILIES = ["resnet8x4", "vgg8", "wrn_16_2", "mobilenetv2_cifar", "shufflenetv2_cifar"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "student.stablehlo"
    stablehlo.FORMAT.write(graphs.exportable(), path, interface.Options())
    return path


def test_a_process_of_its_own_computes_the_same_for_batches_of_any_size(file):
    exportable = graphs.exportable()
    assert stablehlo.FORMAT.recognizes(file)
    runtime = stablehlo.FORMAT.open(file, 1)
    assert runtime.about == exportable.about
    assert runtime.runtime == f"jax {jax.__version__}"
    for count in (1, 7):
        graphs.check_same(runtime(graphs.images(count)), exportable(graphs.images(count)))
    with pytest.raises(errors.InputError, match=r"cannot be run by jax: \w+: .*this is jax"):
        runtime(graphs.images(2, (9, 9, 1)))
    with pytest.raises(errors.InputError, match="has ended"):
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


@pytest.mark.parametrize(
    "name", fresh.all_but_quick_are_long([*graphs.OWN, *_FAMILIES], ["linen", "equinox"])
)
def test_three_lines_of_any_program_run_it(name, tmp_path):
    shape = (32, 32, 3) if name in _FAMILIES else (8, 8, 1)
    exportable = graphs.exportable(name, shape)
    options = interface.Options(fold=name in _FAMILIES, embed_preprocessing=True)
    stablehlo.FORMAT.write(exportable, tmp_path / "file", options)
    function = jax.export.deserialize((tmp_path / "file").read_bytes())
    assert set(function.platforms) == {"cpu", "cuda", "tpu"}
    images = graphs.images(7, shape)
    outputs = {k: np.asarray(v) for k, v in function.call(images).items()}
    graphs.check_same(outputs, exportable(images))


def test_damaged_files_are_refused(file, tmp_path):
    path = tmp_path / "renamed.onnx"
    for damage, content in graphs.damages(file.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(errors.InputError, match=r"damaged|does not say"):
            stablehlo.FORMAT.open(path, 1)
        whole_record = damage in ("flip at the start", "flip in the graph")
        assert stablehlo.FORMAT.recognizes(path) == whole_record
    path.write_bytes(file.read_bytes())
    assert stablehlo.FORMAT.recognizes(path)
    cut = path.rename(tmp_path / "cut.stablehlo")
    cut.write_bytes(cut.read_bytes()[:-9])
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
