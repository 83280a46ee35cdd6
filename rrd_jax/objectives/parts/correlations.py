"""Correlations of rows, of values and of ranks, and differentiable ranks."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rrd_jax.objectives.parts.arithmetic import centered, unit
from rrd_jax.objectives.parts.logits import standardized

# Pairs of values that are compared at once: 32 MB.
_COMPARISONS = 2**23


def pearson(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes Pearson's correlation of each row of x with the same row of y.

    Args:
      x: [R, C].
      y: [R, C].

    Returns:
      [R] in [-1, 1]; 0 with gradient 0 for constant rows.
    """
    return jnp.sum(unit(centered(x)) * unit(centered(y)), axis=-1)


def spearman(x: jax.Array, y: jax.Array, *, rank_temperature: float = 0.1) -> jax.Array:
    """Computes Spearman's correlation of rows, with `soft_rank` of the standardized rows.

    Args:
      x: [R, C].
      y: [R, C].
      rank_temperature: temperature of `soft_rank`, in standard deviations of a row, > 0.

    Returns:
      [R] in [-1, 1].
    """
    ranks = (soft_rank(standardized(z), rank_temperature) for z in (x, y))
    return pearson(*ranks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def soft_rank(x: jax.Array, temperature: float) -> jax.Array:
    """Computes differentiable ranks, 1/2 + sum_j sigmoid((x_i - x_j) / temperature).

    Args:
      x: [B, C].
      temperature: > 0. In the limit of 0, ranks are whole numbers, and ties get their mean rank.

    Returns:
      [B, C] in (0.5, C + 0.5), 1 for the smallest, C for the largest.
    """

    def ranks(columns):
        return 0.5 + jnp.sum(_larger(x, columns, temperature), axis=-1)

    return _in_parts(ranks, *x.shape)


def _soft_rank_forward(x, temperature):
    return soft_rank(x, temperature), x


def _soft_rank_backward(temperature, x, gradient):
    def gradients(columns):
        larger = _larger(x, columns, temperature)
        # The slope is symmetric in the two values of a pair.
        slope = larger * (1 - larger) / temperature
        return jnp.sum(slope * (gradient[:, columns, None] - gradient[:, None]), axis=-1)

    return (_in_parts(gradients, *x.shape),)


soft_rank.defvjp(_soft_rank_forward, _soft_rank_backward)


def _larger(x: jax.Array, columns: jax.Array, temperature: float) -> jax.Array:
    """Returns [B, P, C], soft comparisons: near 1 if x[b, columns[p]] is larger than x[b, c]."""
    return jax.nn.sigmoid((x[:, columns, None] - x[:, None]) / temperature)


def _in_parts(function: Callable[[jax.Array], jax.Array], batch: int, classes: int) -> jax.Array:
    """Returns function(columns [P]) -> [B, P] for all columns, in parts that bound [B, P, C]."""
    parts = -(-batch * classes * classes // _COMPARISONS)
    width = -(-classes // min(parts, classes))
    parts = -(-classes // width)
    if parts == 1:
        return function(jnp.arange(classes))
    columns = jnp.arange(parts * width).reshape(parts, width) % classes
    results = jax.lax.map(function, columns)
    return results.swapaxes(0, 1).reshape(batch, -1)[:, :classes]
