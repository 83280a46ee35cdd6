"""A network of a stem and three taps that compiles quickly, for tests of objectives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional
from rrd_jax.networks import Outputs

# (height, width, channels) of the stem and of the taps.
TAPS = [(8, 8, 4), (8, 8, 4), (4, 4, 6), (2, 2, 8)]
CLASSES = 5


def outputs(seed, *, batch=8, scale=1.0, dtype=jnp.float32):
    """Returns random Outputs of the network; the embedding is the mean of the last map."""
    rng = np.random.default_rng(seed)
    befores = tuple(jnp.asarray(scale * rng.standard_normal((batch, *tap)), dtype) for tap in TAPS)
    maps = tuple(jax.nn.relu(x) for x in befores)
    embedding = jnp.mean(maps[-1].astype(jnp.float32), axis=(1, 2))
    head = {
        "kernel": jnp.asarray(rng.standard_normal((8, CLASSES)), jnp.float32),
        "bias": jnp.asarray(rng.standard_normal(CLASSES), jnp.float32),
    }
    logits = functional.linear(embedding, **head)
    return Outputs(logits, embedding, maps, befores, head, maps[-1])


def init(seed):
    """Returns random parameters for images [B, 8, 8, 3]."""
    rng = np.random.default_rng(seed)
    channels = [3, *(tap[-1] for tap in TAPS)]
    kernels = [
        jnp.asarray(rng.standard_normal((3, 3, wide, narrow)) / np.sqrt(9 * wide), jnp.float32)
        for wide, narrow in itertools.pairwise(channels)
    ]
    head = {"kernel": rng.standard_normal((8, CLASSES)), "bias": rng.standard_normal(CLASSES)}
    return {"kernels": kernels, "head": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), head)}


def apply(params, images):
    """Returns the Outputs for images [B, 8, 8, 3]."""
    x, maps, befores = images, [], []
    for kernel, stride in zip(params["kernels"], (1, 1, 2, 2), strict=True):
        before = functional.convolve(x, kernel, stride=stride, padding=(1, 1))
        x = jax.nn.relu(before)
        befores.append(before)
        maps.append(x)
    embedding = jnp.mean(x, axis=(1, 2))
    logits = functional.linear(embedding, **params["head"])
    return Outputs(logits, embedding, tuple(maps), tuple(befores), params["head"], x)
