"""TFLite files: fast operations, any batch size, 8-bit weights, and reasons of refusals."""

import dataclasses
import sys
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import pytest

from rrd_jax import errors, networks
from rrd_jax.exports import headers, interface, litert
from tests import fresh
from tests.exports import graphs

pytest.importorskip("litert_converter")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "student.tflite"
    litert.FORMAT.write(graphs.exportable(), path, interface.Options())
    return path


def test_convolutions_are_not_split_and_include_their_activations(file):
    from ai_edge_litert.interpreter import Interpreter

    # Other programs read the file with its appended header.
    interpreter = Interpreter(model_path=str(file))
    names = [operation["op_name"] for operation in interpreter._get_ops_details()]
    assert names.count("DEPTHWISE_CONV_2D") == 3
    assert "AVERAGE_POOL_2D" in names
    assert not {"BROADCAST_TO", "SHAPE", "STABLEHLO_REDUCE_WINDOW"} & set(names)
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [-1, 8, 8, 1]
    assert interpreter.get_signature_list()["serving_default"] == {
        "inputs": ["images"],
        "outputs": ["embedding", "logits"],
    }


class _FunctionAndDense(nn.Module):
    """A function of images, followed by a dense layer."""

    function: Callable

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(self.function(x).reshape(len(x), -1))


def _exportable(function):
    network = networks.from_linen(_FunctionAndDense(function))
    about = dataclasses.replace(graphs.exportable().about, model="custom")
    return interface.Exportable(network, fresh.init(network, (8, 8, 1)), about)


def test_a_batch_size_in_a_constant_stays_symbolic(tmp_path):
    exportable = _exportable(lambda x: x + jnp.ones((len(x), 1, 1, 1)) * jnp.ones((1, 8, 8, 1)))
    litert.FORMAT.write(exportable, tmp_path / "file", interface.Options())
    graphs.check_runtime(litert.FORMAT, tmp_path / "file", exportable)


def test_8_bit_weights_keep_outputs_close(tmp_path):
    exportable = graphs.exportable()
    litert.FORMAT.write(exportable, tmp_path / "file", interface.Options(quantize="int8"))
    graphs.check_runtime(litert.FORMAT, tmp_path / "file", exportable, tolerance=0.1)


def test_errors_for_unsupported_operations_name_them(tmp_path):
    for network, reason in {
        lambda x: jnp.sort(x, -2): r"STABLEHLO_SORT",
        lambda x: jnp.abs(jnp.fft.fft(x)): r"no operation for stablehlo\.fft",
    }.items():
        with pytest.raises(errors.InputError, match=reason) as caught:
            litert.FORMAT.write(_exportable(network), tmp_path / "file", interface.Options())
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_files_of_other_programs_are_refused(file, tmp_path):
    path = tmp_path / "other.tflite"
    path.write_bytes(headers.read_graph(file)[0])
    assert litert.FORMAT.recognizes(path)
    with pytest.raises(errors.InputError, match="was not written by rrd_jax.export"):
        litert.FORMAT.open(path, 1)


def test_a_missing_quantizer_is_refused_with_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    options = interface.Options(quantize="int8")
    expected = r"needs litert_quantizer.*pip install 'rrd_jax\[litert\]'"
    with pytest.raises(errors.UnavailableError, match=expected):
        litert.FORMAT.write(graphs.exportable(), tmp_path / "file", options)
