"""Networks for tests: which ones are quick, and variables without compiling an `init`."""

import functools

import jax
import numpy as np
import pytest

from rrd_jax import networks


def init(network, image_shape, seed=0):
    """Variables as numpy arrays, of the scale that most networks start with."""
    create = functools.partial(networks.init, network, image_shape=image_shape)
    shapes = jax.eval_shape(create, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.ndim > 1:
            *places, channels, features = leaf.shape
            variance = 2 / (np.prod(places) * features) if places else 1 / (3 * channels)
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(np.sqrt(variance))
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def all_but_quick_are_long(names, quick):
    """Parameters of a test: names, those that are not among the quick ones marked as long."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]
