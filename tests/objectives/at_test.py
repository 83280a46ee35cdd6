import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import at
from rrd_jax.objectives.parts import pooling
from tests import golden
from tests.objectives import adapted


@pytest.mark.parametrize("name", ["at", "imagenet_at"])
def test_golden_loss_and_gradients(name):
    adapted.check_over_taps("at", golden.load(name))


def _unit64(x, axis):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def test_equals_float64_at_other_sizes_and_powers():
    student, teacher = adapted.normal(3, (5, 9, 7, 4), (5, 6, 7, 8))
    pooled = np.einsum("ih,bhwc->biwc", pooling.averages(9, 6), np.asarray(student, np.float64))

    def strength(x):
        return _unit64((abs(x) ** 3).mean(-1).reshape(5, -1), 1)

    found = at.at_loss([student], [teacher], power=3)
    wanted = ((strength(pooled) - strength(np.asarray(teacher, np.float64))) ** 2).mean(1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_equal_maps_have_no_loss_and_scale_says_nothing():
    (x,) = adapted.normal(0, (3, 4, 4, 5))
    np.testing.assert_allclose(at.at_loss([x], [x]), 0, atol=1e-6)
    np.testing.assert_allclose(at.at_loss([7 * x], [x]), 0, atol=1e-6)


def test_a_power_below_one_is_named():
    with pytest.raises(errors.InputError, match="power is 0.5"):
        objectives.create("at", power=0.5)
