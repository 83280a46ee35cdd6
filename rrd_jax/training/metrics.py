"""Metrics of arrays of predictions."""

import jax
import jax.numpy as jnp
import numpy as np


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the share of rows whose largest logit is that of the label, in [0, 1].

    Args:
      logits: [B, C].
      labels: [B], in [0, C).
    """
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the number of classes that rank before the label [B]; 0 if argmax is the label.

    Among equal logits, the class of the smallest index ranks first, as in argmax. NaN ranks before
    every number.

    Args:
      logits: [B, C].
      labels: [B], in [0, C).
    """
    labels = labels[:, None]
    logit = jnp.take_along_axis(logits, labels, axis=-1)
    is_later = jnp.arange(logits.shape[-1])[None] > labels
    ranks_after = (logits < logit) | ((logits == logit) & is_later)
    return logits.shape[-1] - 1 - jnp.sum(ranks_after, axis=-1)


def percent_equal(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the percentage of equal entries: top-1 accuracy, or agreement of two networks."""
    return 100.0 * float(np.mean(np.asarray(a) == np.asarray(b)))
