import functools

import jax
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ega
from tests import golden


def test_ega_equals_the_golden_file():
    file = golden.load("ega")
    value, gradient = jax.jit(
        jax.value_and_grad(lambda student: ega.ega_loss(student, file["in/f_t"]))
    )(file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/f_s"]) < 1e-5


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_ega_equals_float64(batch):
    rng = np.random.default_rng(batch)
    student, teacher = rng.standard_normal((2, batch, 7))
    r = np.corrcoef(np.concatenate([teacher, student]))
    r_tt, r_ts, r_ss = r[:batch, :batch], r[:batch, batch:], r[batch:, batch:]
    expected = 2 * np.linalg.norm(r_ts - np.eye(batch)) + 3 * np.linalg.norm(r_tt - r_ss)
    loss = jax.jit(functools.partial(ega.ega_loss, node=2.0, edge=3.0))
    actual = loss(student, teacher)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_negative_weight_is_refused():
    with pytest.raises(errors.InputError, match="edge is -1"):
        objectives.create("ega", edge=-1)
