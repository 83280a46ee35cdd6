import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.objectives.parts import ranks


def test_cold_ranks_are_the_ranks_and_ties_get_their_mean():
    found = ranks.soft_rank(jnp.asarray([[3.0, -1.0, 10.0, 2.0], [5.0, 5.0, 1.0, 1.0]]), 1e-3)
    np.testing.assert_allclose(found, [[3, 1, 4, 2], [3.5, 3.5, 1.5, 1.5]], atol=1e-6)


@pytest.mark.parametrize("limit", [2**23, 3 * 7 * 7 - 1, 40, 1])  # in 1, 2, 4 and 7 parts
def test_soft_ranks_and_their_gradient_are_those_of_the_formula(limit, monkeypatch):
    monkeypatch.setattr(ranks, "_COMPARISONS", limit)
    x, weight = (jnp.asarray(a) for a in np.random.default_rng(0).standard_normal((2, 3, 7)))

    def formula(x, temperature):
        return 0.5 + jnp.sum(jax.nn.sigmoid((x[..., None] - x[:, None]) / temperature), axis=-1)

    for temperature in (0.05, 0.5, 3.0):
        found = ranks.soft_rank(x, temperature)
        np.testing.assert_allclose(found, formula(x, temperature), rtol=1e-5)
        found, wanted = (
            jax.grad(lambda x, f=f, t=temperature: jnp.sum(weight * f(x, t)))(x)
            for f in (ranks.soft_rank, formula)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
