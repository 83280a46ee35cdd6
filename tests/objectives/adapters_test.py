import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.objectives import adapters
from rrd_jax.objectives.adapters import Layer


def _shapes(*sizes, channels=None):
    channels = channels or [3] * len(sizes)
    return [(1, size, size, c) for size, c in zip(sizes, channels, strict=True)]


def test_as_many_taps_are_paired_by_position_whatever_their_size():
    assert adapters.pair_taps(_shapes(16, 8, 4, 2), _shapes(32, 16, 8, 4)) == tuple(
        (i, i) for i in range(4)
    )
    assert adapters.pair_taps(_shapes(16, 8, 4, 4), _shapes(16, 8, 4, 4)) == tuple(
        (i, i) for i in range(4)
    )


def test_other_numbers_are_paired_by_size_the_last_of_a_size_first():
    pairs = adapters.pair_taps(_shapes(16, 8, 4, 4), _shapes(32, 16, 8))
    assert pairs == ((0, 0 + 1), (1, 2))
    assert adapters.pair_taps(_shapes(32, 16, 8), _shapes(16, 8, 4, 4)) == ((1, 0), (2, 1))
    assert adapters.pair_taps(_shapes(8, 4), _shapes(16, 8, 4, 4)) == ((0, 1), (1, 3))


def test_what_cannot_be_paired_is_refused_with_both_lists():
    with pytest.raises(errors.InputError, match="taps are 7x7x3, the teacher's 8x8x3 4x4x3"):
        adapters.pair_taps(_shapes(7), _shapes(8, 4))
    with pytest.raises(errors.InputError, match="taps are none, the teacher's none"):
        adapters.pair_taps([], [])
    with pytest.raises(errors.InputError, match="channel with channel"):
        adapters.pair_taps(_shapes(8), _shapes(8, channels=[4]), equal_channels=True)


@pytest.mark.parametrize(("size", "into"), [(8, 8), (8, 4), (7, 4), (5, 3), (4, 6), (9, 1)])
def test_adaptive_pooling_takes_pytorchs_bins(size, into):
    x = np.random.default_rng(0).standard_normal((2, size, 3, 2))
    found = adapters.pool(jnp.asarray(x, jnp.float32), into, 3)
    for i in range(into):
        first, end = int(np.floor(i * size / into)), int(np.ceil((i + 1) * size / into))
        np.testing.assert_allclose(found[:, i], x[:, first:end].mean(1), atol=1e-6)


def test_of_two_maps_the_larger_is_pooled_along_each_axis():
    a, b = adapters.pool_larger(jnp.ones((1, 8, 3, 2)), jnp.ones((1, 4, 5, 6), jnp.bfloat16))
    assert (a.shape, b.shape) == ((1, 4, 3, 2), (1, 4, 3, 6))
    assert b.dtype == jnp.float32


@pytest.mark.parametrize(
    ("student", "teacher", "height"),
    [((8, 8), (4, 4), 4), ((4, 4), (8, 8), 8), ((7, 7), (4, 4), 4), ((6, 9), (6, 5), 6),
     ((5, 5), (5, 5), 5), ((5, 5), (7, 7), 5), ((3, 9), (4, 4), 3)],
)  # fmt: skip
def test_regressors_bring_maps_to_the_teachers_shape(student, teacher, height):
    layers = adapters.regressor((1, *student, 3), (1, *teacher, 5))
    params = adapters.init(jax.random.key(0), layers, 3)
    y = adapters.apply(layers, params, jnp.ones((2, *student, 3)))
    assert y.shape[1] == height
    assert y.shape[-1] == 5
    if height == teacher[0] and student != (3, 9):
        assert y.shape[1:3] == teacher


def test_layers_start_in_pytorchs_bounds():
    forward, backward = Layer(50, (3, 3), bias=True), Layer(50, (4, 4), transposed=True, bias=True)
    for layer, fan_in in ((forward, 20 * 9), (backward, 50 * 16)):
        own = adapters.init(jax.random.key(0), (layer,), 20)["layer0"]
        for name in ("kernel", "bias"):
            largest = np.abs(own[name]).max()
            assert 0.9 / np.sqrt(fan_in) < largest <= 1 / np.sqrt(fan_in)
        np.testing.assert_array_equal(own["scale"], 1)
        np.testing.assert_array_equal(own["shift"], 0)


def test_running_statistics_are_unbiased_and_used_alone_in_inference():
    layers = (Layer(4, bias=True, slope=0.1),)
    params = adapters.init(jax.random.key(0), layers, 3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2, 2, 3)), jnp.float32)
    _, moved = adapters.update(layers, params, adapters.init_running(layers), x)
    own = params["layer0"]
    y = np.asarray(x) @ np.asarray(own["kernel"])[0, 0] + np.asarray(own["bias"])
    wanted = 0.9 + 0.1 * y.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(moved["layer0"]["var"], wanted, rtol=1e-5)
    np.testing.assert_allclose(moved["layer0"]["mean"], 0.1 * y.mean((0, 1, 2)), atol=1e-6)
    y = (y - moved["layer0"]["mean"]) / np.sqrt(moved["layer0"]["var"] + 1e-5)
    found = adapters.infer(layers, params, moved, x)
    np.testing.assert_allclose(found, np.where(y > 0, y, 0.1 * y), atol=1e-5)
