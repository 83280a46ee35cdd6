"""Export as ONNX files, which onnxruntime reads."""

import collections
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.exports import onnx as package
from rrd_jax.exports.interface import Exportable, Options
from rrd_jax.networks.resnet import ResNet
from rrd_jax.objectives import Objective
from tests import tiny
from tests.exports import exportables, graphs
from tests.networks import modern

pytestmark = pytest.mark.long

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# The second name comes from a folder name that is not valid UTF-8.
_CLASSES = ('"a", or b', "größer \udcff", "犬")


class Zoo(nn.Module):
    """A network with most of the common Linen layers."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), strides=2, dtype=jnp.float32)(x)
        x = nn.gelu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.silu(nn.LayerNorm()(nn.Conv(8, (3, 3), padding="VALID")(x)))
        x = nn.relu6(nn.GroupNorm(4)(nn.Conv(16, (5, 5), (2, 1), feature_group_count=8)(x)))
        x = nn.max_pool(x, (2, 2), (1, 1), "SAME")
        x = nn.leaky_relu(nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False))
        gate = nn.hard_swish(nn.Dense(4)(jnp.mean(x, (1, 2), keepdims=True)))
        x = nn.elu(x * nn.sigmoid(nn.Dense(16)(gate)))
        x = nn.softplus(nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x))
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        x = nn.gelu(nn.Dense(16)(x), approximate=False)
        return nn.Dense(3)(x), nn.softmax(x)


class ViT(nn.Module):
    """A small vision transformer with a class token."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(12, (4, 4), (4, 4), padding="VALID")(x).reshape(x.shape[0], -1, 12)
        token = self.param("token", nn.initializers.normal(), (1, 1, 12))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("place", nn.initializers.normal(), (1, x.shape[1], 12))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(3, deterministic=not train)(y, y)
        x = x + nn.Dense(12)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


def _exportable(network, size=8, channels=3, seed=0, **fields):
    """Returns an Exportable of 3 classes with random weights and statistics."""
    variables = networks.init(network, jax.random.key(seed), (size, size, channels))
    random = np.random.default_rng(seed)

    def perturb(path, leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.asarray(leaf + 0.2 * random.uniform(0, 1, leaf.shape), np.float32)
        return leaf

    preprocessing = Preprocessing(size, channels, (0.4,) * channels, (0.25,) * channels)
    about = ModelInfo("x", 3, class_names=_CLASSES, preprocessing=preprocessing)
    return Exportable(
        network, jax.tree_util.tree_map_with_path(perturb, variables), about, **fields
    )


@pytest.fixture(scope="module")
def small():
    return _exportable(tiny.NETWORK(num_classes=3))


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    package.FORMAT.write(small, path, Options())
    return path


def _check(exportable, folder, options=None, sizes=(1, 3), tolerance=1e-5):
    """Exports a network and compares its outputs; returns the number of nodes per operator."""
    path = folder / "network.onnx"
    package.FORMAT.write(exportable, path, options or Options())
    graphs.check_runtime(package.FORMAT, path, exportable, tolerance, counts=sizes)
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def test_a_residual_network_consists_of_convolutions_and_sums(small, tmp_path):
    operators = _check(small, tmp_path, sizes=(1, 3, 32))
    assert operators == {
        **{"Conv": 4, "Relu": 3, "Add": 1},
        **{"GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1},
    }


@pytest.mark.parametrize("name", [*modern.KINDS, *modern.SAMPLE])
def test_every_kind_of_network_is_exported(name, tmp_path):
    size = 32 if name in networks.CIFAR else 64
    # Deep networks with random weights amplify rounding, which differs between processors.
    _check(exportables.exportable(name, size=size), tmp_path, sizes=(1, 3, 32), tolerance=5e-5)


@pytest.mark.parametrize("module", [Zoo, ViT])
def test_common_linen_layers_are_exported(module, tmp_path):
    _check(_exportable(networks.from_linen(module()), 16), tmp_path, tolerance=5e-5)


@pytest.mark.parametrize("name", ["linen", "nnx", "functions", "equinox"])
def test_custom_networks_are_exported_with_gray_images(name, tmp_path):
    _check(_exportable(networks.create(graphs.CUSTOM[name], 3), channels=1), tmp_path)


def test_options_determine_the_content_of_the_file(small, tmp_path):
    assert _check(small, tmp_path, Options(fold=False))["Mul"] == 4
    operators = _check(small, tmp_path, Options(embed_preprocessing=True))
    assert operators["Cast"] == 1
    file = onnx.load(tmp_path / "network.onnx")
    assert file.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_classifier_of_an_objective_is_exported(small, tmp_path):
    def predict(state, student):
        return student.embedding @ state.params["kernel"]

    objective = Objective(init=None, loss=None, predict=predict)
    kernel = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    state = {"params": {"kernel": kernel}, "frozen": {}, "memory": ()}
    exportable = Exportable(
        small.network, {**small.variables, "classifier": state}, small.about, {"simkd": objective}
    )
    assert "Gemm" not in _check(exportable, tmp_path)


def test_networks_in_bfloat16_are_exported_in_float32(tmp_path):
    network = ResNet(3, (1,), (8, 8), dtype=jnp.bfloat16)
    _check(_exportable(network), tmp_path, tolerance=2e-2)
    types = {x.data_type for x in onnx.load(tmp_path / "network.onnx").graph.initializer}
    assert types == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_a_file_describes_its_network(small, written, tmp_path):
    package.FORMAT.write(small, tmp_path / "second.onnx", Options())
    assert (tmp_path / "second.onnx").read_bytes() == written.read_bytes()
    assert package.FORMAT.open(written, 2).about == small.about
    (tmp_path / "renamed").write_bytes(written.read_bytes())
    assert package.recognizes(tmp_path / "renamed")
    (tmp_path / "text").write_text("\x08")
    assert not package.recognizes(tmp_path / "text")
    assert not package.recognizes(tmp_path)
    file = onnx.load(written)
    properties = {entry.key: entry.value for entry in file.metadata_props}
    assert tuple(json.loads(properties["class_names"])) == _CLASSES
    assert (file.ir_version, file.opset_import[0].version) == (8, 17)
    shape = file.graph.input[0].type.tensor_type.shape.dim
    assert [n.dim_param or n.dim_value for n in shape] == ["batch", 3, 8, 8]
    assert file.graph.node[0].name == "ResNet/conv1/Conv"


def test_damaged_and_foreign_files_are_refused(written, tmp_path):
    content, path = bytearray(written.read_bytes()), tmp_path / "damaged.onnx"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.InputError, match=r"cannot be read as ONNX: .*export it again") as e:
        package.FORMAT.open(path, 1)
    assert "\n" not in str(e.value)
    # This byte belongs to a weight.
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match="does not match its digest.*export it again"):
        package.FORMAT.open(path, 1)
    file = onnx.load(written)
    del file.metadata_props[:]
    onnx.save(file, path)
    with pytest.raises(errors.InputError, match=r"was not written by rrd_jax\.export"):
        package.FORMAT.open(path, 1)


def test_too_large_networks_and_unwritable_files_are_refused(small, tmp_path, monkeypatch):
    with pytest.raises(errors.DiskError, match="cannot be written"):
        package.FORMAT.write(small, tmp_path / "no" / "such.onnx", Options())
    monkeypatch.setattr("rrd_jax.exports.onnx.model._LARGEST", 1000)
    with pytest.raises(errors.InputError, match=r"holds at most 2 GiB; use --format=stablehlo"):
        package.FORMAT.write(small, tmp_path / "large.onnx", Options())
    assert not list(tmp_path.iterdir())
