"""Correlations of rows, by value and by rank, and differentiable ranks."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rrd_jax.objectives.parts.arithmetic import centered, unit
from rrd_jax.objectives.parts.logits import standardized

_COMPARISONS = 2**23  # of two values, at a time: 32 MB


def pearson(x: jax.Array, y: jax.Array) -> jax.Array:
    """Pearson's correlation of each row of x with the same row of y.

    Args:
      x: [R, C].
      y: [R, C].

    Returns:
      [R] in [-1, 1]; 0 with gradient 0 where a row is constant.
    """
    return jnp.sum(unit(centered(x)) * unit(centered(y)), axis=-1)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def soft_rank(x: jax.Array, temperature: float) -> jax.Array:
    """Ranks that have a gradient: 1/2 + sum_j sigmoid((x_i - x_j) / temperature).

    Args:
      x: [B, C].
      temperature: > 0; towards 0 the ranks become whole numbers, ties their mean.

    Returns:
      [B, C] in (0.5, C + 0.5), 1 for the smallest, C for the largest.
    """

    def ranks(places):
        return 0.5 + jnp.sum(_larger(x, places, temperature), axis=-1)

    return _in_parts(ranks, *x.shape)


def _soft_rank_forward(x, temperature):
    return soft_rank(x, temperature), x


def _soft_rank_backward(temperature, x, gradient):
    def gradients(places):
        larger = _larger(x, places, temperature)
        slope = larger * (1 - larger) / temperature  # the same from either side of a pair
        return jnp.sum(slope * (gradient[:, places, None] - gradient[:, None]), axis=-1)

    return (_in_parts(gradients, *x.shape),)


soft_rank.defvjp(_soft_rank_forward, _soft_rank_backward)


def _larger(x: jax.Array, places: jax.Array, temperature: float) -> jax.Array:
    """[B, P, C] how surely each of the places' values is larger than each value."""
    return jax.nn.sigmoid((x[:, places, None] - x[:, None]) / temperature)


def _in_parts(function: Callable[[jax.Array], jax.Array], batch: int, classes: int) -> jax.Array:
    """function(places [P]) -> [B, P] for all places, few enough at a time for [B, P, C] to fit."""
    parts = -(-batch * classes * classes // _COMPARISONS)
    width = -(-classes // min(parts, classes))
    parts = -(-classes // width)
    if parts == 1:
        return function(jnp.arange(classes))
    places = jnp.arange(parts * width).reshape(parts, width) % classes
    parts_of_rows = jax.lax.map(function, places)
    return parts_of_rows.swapaxes(0, 1).reshape(batch, -1)[:, :classes]
