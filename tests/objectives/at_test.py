import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import at
from rrd_jax.objectives.parts import pooling
from tests import golden
from tests.objectives import golden_maps


@pytest.mark.parametrize("name", ["at", "imagenet_at"])
def test_the_loss_and_gradients_equal_the_golden_file(name):
    golden_maps.check_golden_loss("at", golden.load(name))


def _unit64(x, axis):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def test_the_loss_equals_float64_for_other_sizes_and_powers():
    student, teacher = golden_maps.normal(3, (5, 9, 7, 4), (5, 6, 7, 8))
    pooled = np.einsum("ih,bhwc->biwc", pooling.averages(9, 6), np.asarray(student, np.float64))

    def strength(x):
        return _unit64((abs(x) ** 3).mean(-1).reshape(5, -1), 1)

    actual = at.at_loss([student], [teacher], power=3)
    expected = ((strength(pooled) - strength(np.asarray(teacher, np.float64))) ** 2).mean(1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_the_loss_of_equal_or_scaled_maps_is_zero():
    (x,) = golden_maps.normal(0, (3, 4, 4, 5))
    np.testing.assert_allclose(at.at_loss([x], [x]), 0, atol=1e-6)
    np.testing.assert_allclose(at.at_loss([7 * x], [x]), 0, atol=1e-6)


def test_a_power_below_one_is_refused():
    with pytest.raises(errors.InputError, match="power is 0.5"):
        objectives.create("at", power=0.5)
