"""Max pooling with a compact backward pass, compared with XLA."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.networks.pool import max_pool


def _plain(x):
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _value_and_gradient(function, x, cotangent):
    y, pull = jax.vjp(function, x)
    return y, pull(cotangent)[0]


def _with_ties(size, dtype):
    """Returns images in which most windows have ties, and a cotangent of the result."""
    rng = np.random.default_rng(0)
    x = np.maximum(np.round(rng.standard_normal((3, *size, 5)) * 2), 0)
    shape = jax.eval_shape(_plain, x).shape
    return jnp.asarray(x, dtype), jnp.asarray(rng.standard_normal(shape), dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 1), (1, 2)])
def test_the_gradient_equals_xla_and_ties_select_the_first_pixel(size, dtype):
    x, cotangent = _with_ties(size, dtype)
    # A CPU accumulates gradients in float32 and rounds their sum once.
    exact = x.astype(jnp.float32), cotangent.astype(jnp.float32)
    actual = jax.jit(_value_and_gradient, static_argnums=0)(max_pool, x, cotangent)
    for value, expected in zip(actual, _value_and_gradient(_plain, *exact), strict=True):
        assert value.dtype == dtype
        np.testing.assert_array_equal(value, expected.astype(dtype))


def test_gradients_equal_xla_without_jit_and_for_nan():
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 1)).astype(np.float32)
    x[0, 3, 3], x[0, 6, 7] = np.nan, np.nan
    with_nan = x, jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    jitted = jax.jit(_value_and_gradient, static_argnums=0)
    for run, inputs in ((_value_and_gradient, _with_ties((7, 10), "float32")), (jitted, with_nan)):
        for value, expected in zip(run(max_pool, *inputs), run(_plain, *inputs), strict=True):
            np.testing.assert_array_equal(value, expected)


def test_the_backward_pass_stores_one_byte_per_window():
    x = jnp.ones((2, 16, 16, 4), jnp.bfloat16)
    _, pull = jax.vjp(max_pool, x)
    residuals = [leaf for leaf in jax.tree.leaves(pull) if leaf.size > 1]
    assert [(leaf.shape, leaf.dtype) for leaf in residuals] == [((2, 8, 8, 4), jnp.int8)]
