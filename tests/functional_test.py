"""Sums over a batch of maps are as exact as numpy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import functional


@pytest.mark.parametrize("scale", [1, 100])
def test_sums_over_many_places_are_as_exact_as_numpys(scale):
    x = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype(np.float32) * scale
    other = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    exact = x.astype(np.float64)

    def loss(factor, shift):
        return jnp.vdot(functional.affine(x, factor, shift), other)

    mean, var = jax.jit(functional.moments)(x, jnp.zeros(3))
    by_factor, by_shift = jax.jit(jax.grad(loss, (0, 1)))(jnp.ones(3), jnp.zeros(3))
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), atol=5e-7 * scale)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=5e-7)
    bound = 5e-7 * np.abs(exact * other).sum((0, 1, 2)).max()
    np.testing.assert_allclose(by_factor, (exact * other).sum((0, 1, 2)), atol=bound)
    np.testing.assert_allclose(by_shift, other.sum((0, 1, 2), np.float64), atol=bound)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_hand_written_gradients_are_those_of_the_formula(dtype):
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
    by_x = weights * np.asarray(factor, np.float64)
    by_shift = weights.sum((0, 1, 2))
    wanted = by_x, (exact * weights).sum((0, 1, 2)), 2 * by_shift
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    for gradient, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(
            np.asarray(gradient, np.float64), other, rtol=tolerance, atol=1e-5
        )


def test_shapes_are_widened_by_name_only():
    values = functional.per_channel(jnp.arange(3.0), jnp.zeros((2, 5, 5, 3)))
    assert values.shape == (1, 1, 1, 3)
    np.testing.assert_array_equal(values.ravel(), np.arange(3.0))
