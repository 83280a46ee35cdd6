"""Networks on their way out, with random weights."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import networks, objectives
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.exports import Exportable

# What breaks CSV, YAML, Markdown and terminals.
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
OWN = "tests.exports.made:Own"


class Own(nn.Module):
    """A network of a user's."""

    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x)).mean((1, 2))
        return nn.Dense(self.num_classes)(x), x


def exportable(
    name="resnet8", *, size=8, channels=3, resize=None, names=NAMES, classes=8, **options
):
    """An Exportable of that network, for 8 classes; for 0 it has no classifier."""
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    images = Preprocessing(size, channels, mean, std, resize)
    network = networks.create(name, classes, options=options)
    about = ModelInfo(name, classes, options, names if classes else (), images)
    return Exportable(network, variables(network, images.image_shape), about)


def variables(network, image_shape):
    """Random ones, which keep values of a usual size; nothing is compiled."""
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


def with_simkd(made):
    """The same, with a classifier of simkd."""
    shape = made.about.preprocessing.image_shape
    outputs = networks.summarize(made.network, shape).outputs
    head = {"kernel": jnp.ones((64, 8)), "bias": jnp.arange(8.0)}
    objective = objectives.create("simkd")
    state = objective.init(jax.random.key(0), outputs, outputs._replace(head=head))
    classifier = jax.device_get(
        {name: getattr(state, name) for name in ("params", "frozen", "memory")}
    )
    about = dataclasses.replace(made.about, classifier="simkd")
    given = {**made.variables, "classifier": classifier}
    return Exportable(made.network, given, about, {"simkd": objective})


def images(made, count=4):
    """Random uint8 images for it."""
    shape = made.about.preprocessing.image_shape
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)
