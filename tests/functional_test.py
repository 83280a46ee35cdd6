"""Sums, moments and custom gradients over batches of feature maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import functional


@pytest.mark.parametrize("scale", [1, 100])
def test_sums_over_large_maps_are_as_exact_as_in_numpy(scale):
    x = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype(np.float32) * scale
    weights = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    exact = x.astype(np.float64)

    def loss(factor, shift):
        return jnp.vdot(functional.affine(x, factor, shift), weights)

    mean, var = jax.jit(functional.moments)(x, jnp.zeros(3))
    factor_gradient, shift_gradient = jax.jit(jax.grad(loss, (0, 1)))(jnp.ones(3), jnp.zeros(3))
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), atol=5e-7 * scale)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=5e-7)
    bound = 5e-7 * np.abs(exact * weights).sum((0, 1, 2)).max()
    np.testing.assert_allclose(factor_gradient, (exact * weights).sum((0, 1, 2)), atol=bound)
    np.testing.assert_allclose(shift_gradient, weights.sum((0, 1, 2), np.float64), atol=bound)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_custom_gradients_equal_the_formula(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 3, 4)), dtype)
    factor, shift = jnp.asarray(rng.standard_normal((2, 4)), jnp.float32)
    weights = jnp.asarray(rng.standard_normal(x.shape), dtype)

    def loss(x, factor, shift):
        y = functional.add_bias(functional.affine(x, factor, shift), shift)
        assert y.dtype == dtype
        return jnp.sum(y.astype(jnp.float32) * weights.astype(jnp.float32))

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, factor, shift)
    assert [gradient.dtype for gradient in gradients] == [dtype, jnp.float32, jnp.float32]
    exact, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    x_gradient = weights * np.asarray(factor, np.float64)
    shift_gradient = weights.sum((0, 1, 2))
    expected = x_gradient, (exact * weights).sum((0, 1, 2)), 2 * shift_gradient
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(gradient, np.float64), value, rtol=tolerance, atol=1e-5
        )


def test_per_channel_adds_axes_of_size_1():
    values = functional.per_channel(jnp.arange(3.0), jnp.zeros((2, 5, 5, 3)))
    assert values.shape == (1, 1, 1, 3)
    np.testing.assert_array_equal(values.ravel(), np.arange(3.0))
