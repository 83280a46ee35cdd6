import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ssim
from tests.objectives import batches, golden_maps


def _ssim64(student, teacher, window, deviation):
    """Computes the loss of one map [B, H, W, C] by loops over positions."""

    def rescale(x):
        low, high = x.min((1, 2, 3), keepdims=True), x.max((1, 2, 3), keepdims=True)
        return (x - low) / (high - low)

    s, t = rescale(student), rescale(teacher)
    (height, width), reach = s.shape[1:3], window // 2
    total = 0.0
    for row, column in np.ndindex(height, width):
        rows = np.arange(max(0, row - reach), min(height, row + reach + 1))
        columns = np.arange(max(0, column - reach), min(width, column + reach + 1))
        weights = np.exp(
            -((rows[:, None] - row) ** 2 + (columns - column) ** 2) / (2 * deviation**2)
        )
        weights = (weights / weights.sum())[None, :, :, None]
        a, b = s[:, rows][:, :, columns], t[:, rows][:, :, columns]
        mean_a, mean_b = ((weights * x).sum((1, 2)) for x in (a, b))
        at, bt = a - mean_a[:, None, None], b - mean_b[:, None, None]
        var_a, var_b, both = ((weights * x).sum((1, 2)) for x in (at * at, bt * bt, at * bt))
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        structure = (2 * both + 9e-4) / (var_a + var_b + 9e-4)
        total = total + (1 - luminance * structure).mean(-1)
    return total / (height * width)


@pytest.mark.parametrize(("window", "deviation"), [(11, 1.5), (3, 0.7), (1, 1.0)])
def test_the_loss_equals_float64_loops(window, deviation):
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 3, 14, 6, 5))
    actual = jax.jit(ssim.ssim_loss, static_argnames=("window", "deviation"))(
        [jnp.asarray(student, jnp.float32)],
        [jnp.asarray(teacher, jnp.float32)],
        window=window,
        deviation=deviation,
    )
    expected = _ssim64(student, teacher, window, deviation)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_scaled_maps_have_no_loss_and_constant_maps_a_finite_gradient():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    total = jax.jit(jax.value_and_grad(lambda s: jnp.sum(ssim.ssim_loss([s], [x]))))
    np.testing.assert_allclose(total(3 * x + 1)[0], 0, atol=2e-4)
    value, gradient = total(0 * x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("value", "position"), [(jnp.min, jnp.argmin), (jnp.max, jnp.argmax)])
def test_the_gradient_of_an_extreme_goes_to_its_first_position(value, position):
    x = np.random.default_rng(0).integers(0, 4, (6, 3, 2, 4)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ssim._extreme(x, value, position))))(x)
    expected = jax.nn.one_hot(position(x.reshape(6, -1), axis=1), 24).reshape(x.shape)
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(
        ssim._extreme(x, value, position)[:, 0, 0, 0], value(x, (1, 2, 3))
    )


def test_a_convolution_is_trained_only_if_channels_differ():
    a, b = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 4, 4, 5))
    objective = objectives.create("ssim")
    both = golden_maps.outputs([a, b]), golden_maps.outputs([a, b[..., :2]])
    state = jax.jit(objective.init)(jax.random.key(0), *both)
    assert state.params["tap0"] == {}
    assert state.params["tap1"]["layer0"]["kernel"].shape == (1, 1, 5, 2)
    assert objective.loss(state, *both, batches.NO_BATCH)[0].shape == (2,)


def test_windows_out_of_range_are_refused():
    with pytest.raises(errors.InputError, match="window is 4, but must be odd"):
        objectives.create("ssim", window=4)
    with pytest.raises(errors.InputError, match="deviation is 0"):
        objectives.create("ssim", deviation=0)
