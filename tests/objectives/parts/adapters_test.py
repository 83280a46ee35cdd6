import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer


@pytest.mark.parametrize(
    ("student", "teacher", "height"),
    [((8, 8), (4, 4), 4), ((4, 4), (8, 8), 8), ((7, 7), (4, 4), 4), ((6, 9), (6, 5), 6),
     ((5, 5), (5, 5), 5), ((5, 5), (7, 7), 5), ((3, 9), (4, 4), 3)],
)  # fmt: skip
def test_regressors_map_to_the_teachers_shape(student, teacher, height):
    layers = adapters.regressor((1, *student, 3), (1, *teacher, 5))
    params = adapters.init(jax.random.key(0), layers, 3)
    apply = jax.jit(adapters.apply, static_argnums=0)
    y = apply(layers, params, jnp.ones((2, *student, 3)))
    assert y.shape[1] == height
    assert y.shape[-1] == 5
    if height == teacher[0] and student != (3, 9):
        assert y.shape[1:3] == teacher


def test_initial_weights_have_pytorchs_bounds():
    forward, backward = Layer(50, (3, 3), bias=True), Layer(50, (4, 4), transposed=True, bias=True)
    for layer, fan_in in ((forward, 20 * 9), (backward, 50 * 16)):
        params = adapters.init(jax.random.key(0), (layer,), 20)["layer0"]
        for name in ("kernel", "bias"):
            largest = np.abs(params[name]).max()
            assert 0.9 / np.sqrt(fan_in) < largest <= 1 / np.sqrt(fan_in)
        np.testing.assert_array_equal(params["scale"], 1)
        np.testing.assert_array_equal(params["shift"], 0)


def test_running_statistics_are_unbiased_and_used_for_inference():
    layers = (Layer(4, bias=True, slope=0.1),)
    params = adapters.init(jax.random.key(0), layers, 3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2, 2, 3)), jnp.float32)
    _, moved = adapters.update(layers, params, adapters.init_running(layers), x)
    layer = params["layer0"]
    y = np.asarray(x) @ np.asarray(layer["kernel"])[0, 0] + np.asarray(layer["bias"])
    expected = 0.9 + 0.1 * y.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(moved["layer0"]["var"], expected, rtol=1e-5)
    np.testing.assert_allclose(moved["layer0"]["mean"], 0.1 * y.mean((0, 1, 2)), atol=1e-6)
    mean, var = (np.asarray(moved["layer0"][name]) for name in ("mean", "var"))
    y = (y - mean) / np.sqrt(var + 1e-5)
    actual = adapters.infer(layers, params, moved, x)
    np.testing.assert_allclose(actual, np.where(y > 0, y, 0.1 * y), atol=1e-5)
