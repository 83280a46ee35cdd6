"""Exportable networks with random weights."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import networks, objectives
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.exports import Exportable

# Class names that break naive CSV, YAML, Markdown and terminal output.
NAMES = (
    "a, b",
    "c \"d\" 'e'",
    "f|g",
    "Ünï ☃ 😀",
    "---",
    "h\ni: j",
    "# `k` ``l``",
    "\x1b[31m\ud800",
)
CUSTOM, MAPPED = "tests.exports.exportables:Custom", "tests.exports.exportables:Mapped"


class Custom(nn.Module):
    """A custom network."""

    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x)).mean((1, 2))
        return nn.Dense(self.num_classes)(x), x


class Mapped(nn.Module):
    """A custom network with a feature map of stride 4, which is also its patches."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(4, (4, 4), strides=4)(x))
        y = x.mean((1, 2))
        return networks.Outputs(nn.Dense(self.num_classes)(y), y, (x,), patches=x)


def exportable(
    name="resnet8", *, size=8, channels=3, resize=None, names=NAMES, classes=8, **options
):
    """Builds an Exportable with `classes` classes; without a classifier if `classes` is 0."""
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    images = Preprocessing(size, channels, mean, std, resize)
    network = networks.create(name, classes, options=options)
    about = ModelInfo(name, classes, options, names if classes else (), images)
    return Exportable(network, variables(network, images.image_shape), about)


def variables(network, image_shape):
    """Returns random variables that preserve the scale of activations, without compilation."""
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name, size = path[-1].key, leaf.shape
        if name in ("scale", "var"):
            return rng.uniform(0.8, 1.2, size).astype(np.float32)
        fan_in = np.prod(size[:-1]) if name == "kernel" else 100
        return (rng.standard_normal(size) * np.sqrt(2 / fan_in)).astype(np.float32)

    return {"batch_stats": {}, **jax.tree_util.tree_map_with_path(value, shapes)}


def with_simkd(source):
    """Returns a copy of an Exportable with a classifier of SimKD."""
    shape = source.about.preprocessing.image_shape
    outputs = networks.summarize(source.network, shape).outputs
    head = {"kernel": jnp.ones((64, 8)), "bias": jnp.arange(8.0)}
    objective = objectives.create("simkd")
    state = objective.init(jax.random.key(0), outputs, outputs._replace(head=head))
    classifier = jax.device_get(
        {name: getattr(state, name) for name in ("params", "frozen", "memory")}
    )
    about = dataclasses.replace(source.about, classifier="simkd")
    variables_and_classifier = {**source.variables, "classifier": classifier}
    return Exportable(source.network, variables_and_classifier, about, {"simkd": objective})


def images(source, count=4):
    """Returns `count` random images for an Exportable: uint8 [count, H, W, C]."""
    shape = source.about.preprocessing.image_shape
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)
