"""Figures over arrays of predictions."""

import jax
import jax.numpy as jnp
import numpy as np


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of rows whose largest logit is the label's, in [0, 1].

    Args:
      logits: [B, C].
      labels: [B], in [0, C).
    """
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Number of classes that come before the label's [B]; 0 where argmax finds the label.

    Of equal logits the first class comes first, as in argmax. A NaN is before every class.

    Args:
      logits: [B, C].
      labels: [B], in [0, C).
    """
    labels = labels[:, None]
    logit = jnp.take_along_axis(logits, labels, axis=-1)
    behind = jnp.arange(logits.shape[-1])[None] > labels
    beaten = (logits < logit) | ((logits == logit) & behind)
    return logits.shape[-1] - 1 - jnp.sum(beaten, axis=-1)


def percent_equal(a: np.ndarray, b: np.ndarray) -> float:
    """Share of equal entries, in per cent: top-1 accuracy, or agreement of two networks."""
    return 100.0 * float(np.mean(np.asarray(a) == np.asarray(b)))
