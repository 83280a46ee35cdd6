"""Checks of loaded weights."""

import jax
import ml_dtypes
import numpy as np
import pytest

from rrd_jax import errors, networks

_SHAPE = (8, 8, 3)


def _weights(dtype=np.float32, **leaves):
    network = networks.create("resnet8", 4)
    variables = networks.summarize(network, _SHAPE).variables
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, dtype), variables)
    for path, value in leaves.items():
        collection, module, leaf = path.split("__")
        variables[collection][module][leaf] = value
    return network, variables


def _check(network, variables):
    networks.check_weights("here", variables, network, _SHAPE)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_finite_weights_pass(dtype):
    _check(*_weights(dtype))


@pytest.mark.parametrize(
    ("leaf", "value", "message"),
    [
        ("params__conv1__kernel", np.full((3, 3, 3, 16), np.nan), "kernel is not finite.* 432 NaN"),
        ("params__fc__bias", np.full(4, np.inf, ml_dtypes.bfloat16), "4 infinite"),
        ("params__fc__bias", np.full(4, 1e200), "4 beyond the range of float32"),
        ("batch_stats__bn1__mean", np.full(16, np.nan), "batch_stats/bn1/mean is not finite"),
        ("batch_stats__bn1__var", np.full(16, -1.0), "is a variance, but its minimum is -1"),
        ("params__fc__bias", np.arange(4), "of type int64, but it must be"),
        ("params__fc__bias", np.ones(4, np.complex64), "of type complex64"),
        ("params__fc__bias", [0.0] * 4, "params/fc/bias/0 of type float, but must"),
        ("params__fc__bias", None, "params/fc/bias is absent there"),
    ],
)
def test_invalid_weights_are_refused_in_one_line(leaf, value, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        _check(*_weights(**{leaf: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variables", [None, [], {}, {"conv1": np.ones(3)}, "weights"])
def test_values_that_are_not_variables_are_refused(variables):
    network, _ = _weights()
    with pytest.raises(errors.InputError, match="are not the variables of a network"):
        _check(network, variables)
