"""Figures over arrays of predictions."""

import jax
import jax.numpy as jnp
import numpy as np


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of rows whose largest logit is the label's, in [0, 1]."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def percent_equal(a: np.ndarray, b: np.ndarray) -> float:
    """Share of equal entries, in per cent: top-1 accuracy, or agreement of two networks."""
    return 100.0 * float(np.mean(np.asarray(a) == np.asarray(b)))
