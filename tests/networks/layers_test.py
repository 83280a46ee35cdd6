"""Layers compared with plain definitions, and batch norm with NumPy in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.networks import layers
from tests import golden


def _value_and_gradients(function, variables, x, cotangent):
    value, pull = jax.vjp(function, variables, x)
    return value, pull(cotangent)


def _evaluate(functions, variables, x):
    """Returns values and vector-Jacobian products of two functions for a random cotangent."""
    shape = jax.eval_shape(functions[0], variables, x).shape
    cotangent = jax.random.normal(jax.random.key(2), shape)

    @jax.jit
    def run(*inputs):
        return [_value_and_gradients(function, *inputs) for function in functions]

    return run(variables, x, cotangent)


@pytest.mark.parametrize(("features", "groups", "kernel"), [(12, 12, 3), (24, 3, 1), (24, 4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolutions_equal_xla(features, groups, kernel, stride):
    x = jax.random.normal(jax.random.key(0), (2, 7, 10, 12))
    conv = layers.Conv(features, kernel, stride, groups=groups)
    variables = conv.init(jax.random.key(1), x)
    pad = (kernel - 1) // 2

    def plain(variables, x):
        kernel, layout = variables["params"]["kernel"], ("NHWC", "HWIO", "NHWC")
        options = {"dimension_numbers": layout, "feature_group_count": groups}
        return jax.lax.conv_general_dilated(x, kernel, [stride] * 2, [(pad, pad)] * 2, **options)

    (expected, expected_gradients), (value, gradients) = _evaluate(
        (plain, conv.apply), variables, x
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (33, 46), (7, 9)])
def test_a_stem_with_space_to_depth_equals_the_plain_stem(size):
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    stem = layers.Conv(8, 7, 2)
    variables = stem.init(jax.random.key(1), images)
    functions = stem.apply, stem.clone(space_to_depth=True).apply
    (expected, expected_gradients), (value, gradients) = _evaluate(functions, variables, images)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    errors = jax.tree.map(golden.relative, gradients, expected_gradients)
    assert max(jax.tree.leaves(errors)) < 1e-5


@pytest.mark.parametrize(
    # Far from the running mean, the error of float32 grows by (mean / deviation)^2 = 900: here to 8
    # times 900 epsilon.
    ("mean", "running", "error"),
    [(3, 0, 2e-6), (30, 29, 2e-6), (30, 0, 9e-4)],
)
def test_batch_norm_is_exact_near_its_running_mean_and_accurate_far_from_it(mean, running, error):
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 4)).astype(np.float32) + mean
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    variables["batch_stats"]["mean"] += running

    def loss(x):
        y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    exact = (x.astype(np.float64) - x.mean((0, 1, 2), np.float64)) / x.std((0, 1, 2), np.float64)
    # The epsilon of batch norm adds 3e-5.
    np.testing.assert_allclose(y, exact, atol=error + 3e-5)
    rows = np.cos(exact).reshape(-1, 4), exact.reshape(-1, 4)
    expected = rows[0] - rows[0].mean(0) - rows[1] * (rows[0] * rows[1]).mean(0)
    expected /= x.std((0, 1, 2), np.float64)
    np.testing.assert_allclose(gradient.reshape(-1, 4), expected, atol=10 * error + 3e-5)


def test_batch_norm_keeps_the_unbiased_running_variance():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32) * 3 + 1000
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    variables["batch_stats"]["mean"] += 999
    train = jax.jit(functools.partial(norm.apply, train=True, mutable=["batch_stats"]))
    y, updated = train(variables, x)
    flat, stats = x.reshape(-1, 4).astype(np.float64), updated["batch_stats"]
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(stats["mean"], 0.9 * 999 + 0.1 * flat.mean(0), rtol=1e-5)
    exact = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 4), exact, atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 8, 8, 2), (64, 2), (8, 1, 1, 2)])
@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
def test_the_first_batch_norm_is_accurate_for_values_far_from_zero(shape, mean):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) + np.float32(mean)
    norm = layers.BatchNorm(momentum=0.0)
    variables = norm.init(jax.random.key(0), x, train=True)
    _, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    axes = tuple(range(x.ndim - 1))
    expected = x.astype(np.float64).var(axis=axes, ddof=1)
    np.testing.assert_allclose(changed["batch_stats"]["var"], expected, rtol=1e-5)
