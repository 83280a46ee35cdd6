import numpy as np
import pytest

from rrd_jax.objectives import nst
from rrd_jax.objectives.parts import pooling
from tests import golden
from tests.objectives import golden_maps


def test_the_loss_and_gradients_equal_the_golden_file():
    golden_maps.check_golden_loss("nst", golden.load("nst"))


def _unit64(x, axis):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


# With 42 positions, NST multiplies over channels for 8 channels, and over positions for 90.
@pytest.mark.parametrize("wide", [8, 90])
def test_the_loss_equals_float64_for_other_sizes(wide):
    student, teacher = golden_maps.normal(3, (5, 9, 7, 4), (5, 6, 7, wide))
    pooled = np.einsum("ih,bhwc->biwc", pooling.averages(9, 6), np.asarray(student, np.float64))
    s, t = (_unit64(x.reshape(5, 42, -1), 1) for x in (pooled, np.asarray(teacher, np.float64)))

    def kernel(a, b):
        return (np.einsum("bpc,bpd->bcd", a, b) ** 2).mean((1, 2))

    expected = kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    np.testing.assert_allclose(nst.nst_loss([student], [teacher]), expected, rtol=1e-4)


def test_the_loss_of_equal_or_scaled_maps_is_zero():
    (x,) = golden_maps.normal(0, (3, 4, 4, 5))
    np.testing.assert_allclose(nst.nst_loss([x], [x]), 0, atol=1e-6)
    np.testing.assert_allclose(nst.nst_loss([7 * x], [x]), 0, atol=1e-6)
