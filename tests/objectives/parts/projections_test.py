import jax
import numpy as np
import pytest

from rrd_jax.objectives.parts import projections


def orthonormal(free):
    """Returns a matrix with its rows, or its columns if there are fewer, after Gram-Schmidt."""
    rows = np.asarray(free if free.shape[0] <= free.shape[1] else free.T, np.float64)
    basis = []
    for row in rows:
        rest = row - sum((row @ done) * done for done in basis)
        basis.append(rest / np.linalg.norm(rest))
    basis = np.stack(basis)
    return basis if free.shape[0] <= free.shape[1] else basis.T


@pytest.mark.parametrize(("features", "dim"), [(4, 7), (7, 4), (5, 5)])
def test_an_orthogonal_head_equals_gram_schmidt_in_float64(features, dim):
    head = projections.init_head(jax.random.key(0), features, dim, "orthogonal", None)
    kernel = projections.layers(head)["kernel"]
    np.testing.assert_allclose(kernel, orthonormal(head["free"]), atol=1e-6)
    rows = np.random.default_rng(0).standard_normal((3, features)).astype(np.float32)
    np.testing.assert_allclose(projections.apply_head(head, rows), rows @ kernel, atol=1e-5)

    def loss(head):
        return (projections.apply_head(head, rows) ** 3).sum()

    # The gradient, beside central differences of the reference.
    gradient = jax.jit(jax.grad(loss))(head)["free"]
    direction = np.random.default_rng(1).standard_normal((features, dim))
    free = np.asarray(head["free"], np.float64)
    values = [((rows @ orthonormal(free + h * direction)) ** 3).sum() for h in (1e-5, -1e-5)]
    slope = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-3)
