"""Golden numbers of objectives since 2023, see tests/golden/README.md, and float64 arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import golden

FILE = golden.load("recent")
LABELS, TEACHER = (jnp.asarray(FILE[name]) for name in ("label", "teacher"))


def assert_equal(name, loss, **inputs):
    """Compares the mean loss of the inputs, and its gradients, with those of a case."""
    value, gradients = jax.jit(jax.value_and_grad(lambda arrays: jnp.mean(loss(**arrays))))(
        {key: jnp.asarray(array, jnp.float32) for key, array in inputs.items()}
    )
    np.testing.assert_allclose(value, FILE[f"{name}/loss"], rtol=1e-5)
    for key, gradient in gradients.items():
        expected = FILE[f"{name}/grad/{key}"]
        # The gradient for the temperature is a difference of large sums.
        rtol = 1e-3 if key == "temperature" else 1e-4
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=1e-5 * abs(expected).max())


def softmax(z):
    """Computes the softmax of logits in the type of the logits."""
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def random(seed, *shape):
    """Returns normal float64 numbers with standard deviation 3."""
    return 3 * np.random.default_rng(seed).standard_normal(shape)
