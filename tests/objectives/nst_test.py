import numpy as np
import pytest

from rrd_jax.objectives import nst
from rrd_jax.objectives.parts import pooling
from tests import golden
from tests.objectives import adapted


def test_golden_loss_and_gradients():
    adapted.check_over_taps("nst", golden.load("nst"))


def _unit64(x, axis):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


@pytest.mark.parametrize("wide", [8, 90])  # products of channels; of places, which are 42
def test_equals_float64_at_other_sizes(wide):
    student, teacher = adapted.normal(3, (5, 9, 7, 4), (5, 6, 7, wide))
    pooled = np.einsum("ih,bhwc->biwc", pooling.averages(9, 6), np.asarray(student, np.float64))
    s, t = (_unit64(x.reshape(5, 42, -1), 1) for x in (pooled, np.asarray(teacher, np.float64)))

    def kernel(a, b):
        return (np.einsum("bpc,bpd->bcd", a, b) ** 2).mean((1, 2))

    wanted = kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    np.testing.assert_allclose(nst.nst_loss([student], [teacher]), wanted, rtol=1e-4)


def test_equal_maps_have_no_loss_and_scale_says_nothing():
    (x,) = adapted.normal(0, (3, 4, 4, 5))
    np.testing.assert_allclose(nst.nst_loss([x], [x]), 0, atol=1e-6)
    np.testing.assert_allclose(nst.nst_loss([7 * x], [x]), 0, atol=1e-6)
