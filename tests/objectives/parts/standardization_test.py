import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.objectives.parts import standardization


@pytest.mark.parametrize("order", [1, 2, 12, 28, 36, 192, 384, 768, 1152, 1280, 1408])
def test_hadamard_matrices_of_the_widths_of_transformers_are_orthogonal(order):
    matrix = standardization.hadamard(order)
    assert np.array_equal(np.abs(matrix), np.ones((order, order)))
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [3, 6, 100])
def test_other_orders_are_refused(order):
    with pytest.raises(errors.InputError, match=f"{order} channels"):
        standardization.hadamard(order)
