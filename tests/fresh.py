"""Network variables without compiling an `init`, and marks for networks that are slow to test."""

import functools

import jax
import numpy as np
import pytest

from rrd_jax import networks


def init(network, image_shape, seed=0):
    """Returns random variables as numpy arrays, with the usual scale of initial weights."""
    create = functools.partial(networks.init, network, image_shape=image_shape)
    shapes = jax.eval_shape(create, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.ndim > 1:
            *window, channels, features = leaf.shape
            variance = 2 / (np.prod(window) * features) if window else 1 / (3 * channels)
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(np.sqrt(variance))
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def mark_long_except(names, quick):
    """Returns names as test parameters; names that are not in `quick` are marked as long."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]
