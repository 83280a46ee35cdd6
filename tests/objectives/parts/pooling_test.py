import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.objectives.parts import pooling


@pytest.mark.parametrize(("size", "into"), [(8, 8), (8, 4), (7, 4), (5, 3), (4, 6), (9, 1)])
def test_adaptive_pooling_takes_pytorchs_bins(size, into):
    x = np.random.default_rng(0).standard_normal((2, size, 3, 2))
    actual = pooling.pool(jnp.asarray(x, jnp.float32), into, 3)
    for i in range(into):
        first, end = int(np.floor(i * size / into)), int(np.ceil((i + 1) * size / into))
        np.testing.assert_allclose(actual[:, i], x[:, first:end].mean(1), atol=1e-6)


def test_the_larger_of_two_maps_is_pooled_along_each_axis():
    a, b = pooling.pool_larger(jnp.ones((1, 8, 3, 2)), jnp.ones((1, 4, 5, 6), jnp.bfloat16))
    assert (a.shape, b.shape) == ((1, 4, 3, 2), (1, 4, 3, 6))
    assert b.dtype == jnp.float32


def test_blending_multiplies_rows_and_columns():
    rng = np.random.default_rng(0)
    x, rows, columns = (rng.standard_normal(s) for s in ((2, 5, 3, 4), (6, 5), (2, 3)))
    expected = np.einsum("ih,jw,bhwc->bijc", rows, columns, x)
    actual = pooling.blend(*(jnp.asarray(a, jnp.float32) for a in (x, rows, columns)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
