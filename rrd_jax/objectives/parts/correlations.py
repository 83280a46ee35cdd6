"""Correlations of rows, by value and by rank."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.parts.arithmetic import centred, unit
from rrd_jax.objectives.parts.logits import standardized
from rrd_jax.objectives.parts.ranks import soft_rank


def pearson(x: jax.Array, y: jax.Array) -> jax.Array:
    """Pearson's correlation of each row of x with the same row of y.

    Args:
      x: [R, C].
      y: [R, C].

    Returns:
      [R] in [-1, 1]; 0 with gradient 0 where a row is constant.
    """
    return jnp.sum(unit(centred(x)) * unit(centred(y)), axis=-1)


def spearman(x: jax.Array, y: jax.Array, *, rank_temperature: float = 0.1) -> jax.Array:
    """Spearman's correlation, that of the ranks, through `soft_rank` of the standardised rows.

    Args:
      x: [R, C].
      y: [R, C].
      rank_temperature: in standard deviations of a row, > 0.

    Returns:
      [R] in [-1, 1].
    """
    ranks = (soft_rank(standardized(z), rank_temperature) for z in (x, y))
    return pearson(*ranks)
