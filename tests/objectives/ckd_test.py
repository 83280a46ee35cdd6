import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.objectives import ckd


def test_ckd_compares_the_differences_of_all_pairs():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 7, 5)) + np.array([0, 3])[:, None, None]
    pairs = (student[:, None] - student) - (teacher[:, None] - teacher)
    expected = (pairs**2).mean((0, 1)).sum() / 5
    actual = ckd.ckd_loss(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(jnp.mean(actual), expected, rtol=1e-5)
    shifted = ckd.ckd_loss(jnp.asarray(teacher + 2), jnp.asarray(teacher))
    np.testing.assert_allclose(shifted, 0, atol=1e-10)


def test_embeddings_of_different_widths_are_refused():
    with pytest.raises(errors.InputError, match=r"\(3, 2\) and teacher \(3, 4\)"):
        ckd.ckd_loss(jnp.ones((3, 2)), jnp.ones((3, 4)))
