"""Small exportable networks and images, and comparisons of their outputs."""

import functools

import jax
import numpy as np

from rrd_jax import networks
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.exports.interface import Exportable
from rrd_jax.networks.shufflenet import ShuffleNetV1
from tests import fresh

NAMES = ("a, b", 'the "second"', "dritte Ähre", "第四")
_NETS = "tests.networks.custom_nets"
# Grouped and depthwise convolutions, batch norms, channel shuffles, and pooling with padding.
GROUPED = functools.partial(ShuffleNetV1, widths=(48,), blocks=(2,), groups=3)
CUSTOM = {
    # Mixer needs the batch size as a number.
    "linen": f"{_NETS}:Mixer",
    "group_norm": f"{_NETS}:GroupNorm",
    "nnx": f"{_NETS}:Norm",
    "equinox": "tests.networks.custom_equinox:Stateful",
    "functions": f"{_NETS}:functions",
}


@functools.cache
def exportable(name="grouped", image_shape=(8, 8, 1)):
    """Returns an Exportable for small images of four classes."""
    if name == "grouped":
        network = GROUPED(num_classes=len(NAMES))
    else:
        network = networks.create(CUSTOM.get(name, name), len(NAMES))
    if name in CUSTOM:
        variables = networks.init(network, jax.random.key(0), image_shape)
    else:
        variables = fresh.init(network, image_shape)
    size, _, channels = image_shape
    preprocessing = Preprocessing(size, channels, (0.4,) * channels, (0.3,) * channels)
    about = ModelInfo(name, len(NAMES), class_names=NAMES, preprocessing=preprocessing)
    return Exportable(network, variables, about)


def images(count, image_shape=(8, 8, 1)):
    """Returns random images: uint8 [count, *image_shape]."""
    return np.random.default_rng(count).integers(0, 256, (count, *image_shape), np.uint8)


def check_same(outputs, expected, tolerance=1e-4):
    """Checks that outputs equal the expected outputs up to rounding."""
    assert set(outputs) == set(expected)
    for name, values in expected.items():
        assert outputs[name].shape == values.shape
        assert outputs[name].dtype == np.float32
        assert np.isfinite(values).all()
        assert np.abs(outputs[name] - values).max() <= tolerance * np.abs(values).max(), name


def check_runtime(form, path, exportable, tolerance=1e-4, counts=(1, 7, 20, 1)):
    """Opens a file and compares its outputs with the network; returns the runtime."""
    runtime, shape = form.open(path, 1), exportable.about.preprocessing.image_shape
    batch = images(max(counts), shape)
    expected = exportable(batch)
    for count in counts:
        part = {name: values[:count] for name, values in expected.items()}
        check_same(runtime(batch[:count]), part, tolerance)
    return runtime


def damages(content):
    """Returns damaged copies of the bytes, by the kind of damage."""
    middle, end = len(content) // 2, len(content) - 30
    label = content.rindex(NAMES[-1].encode())
    positions = {"at the start": 40, "in the graph": label // 2, "in a name": label}
    flipped = {f"flip {name}": _flip(content, position) for name, position in positions.items()}
    return {"empty": b"", "cut": content[:middle], "cut at the end": content[:end], **flipped}


def _flip(content, position):
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]
