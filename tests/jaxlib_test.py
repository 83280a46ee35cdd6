"""The arithmetic of the installed jaxlib, and the refusal of a wrong version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, parallel


def test_small_matrices_under_vmap_are_multiplied_correctly():
    # Errors of jaxlib 0.10.2 on a CPU are several times the value: issue 39103 of JAX.
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 3)).astype(np.float32)
    rows = rng.standard_normal((32_769, 3)).astype(np.float32)
    actual = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    expected = ((rows.astype(np.float64) @ matrix.T) ** 2).sum(1)
    np.testing.assert_allclose(actual, expected, rtol=2e-6)


def test_a_jaxlib_with_wrong_values_on_a_cpu_is_refused_on_a_cpu(monkeypatch):
    parallel.check_jaxlib()
    monkeypatch.setattr(jax.lib, "__version__", "0.10.2")
    with pytest.raises(errors.InputError, match="jaxlib 0.10.2 computes wrong values on a CPU"):
        parallel.check_jaxlib()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    parallel.check_jaxlib()
