"""Arithmetic that stays exact and finite, in value and gradient, where the plain form does not."""

import math

import jax
import jax.numpy as jnp

_SHORTEST = 1e-12


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full float32.

    Similarities are divided by temperatures down to 0.02: the accelerators' default of about ten
    mantissa bits would be an error of several per cent in the softmax.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def root(square: jax.Array, smallest: float = 0.0) -> jax.Array:
    """sqrt(max(square, smallest)), with gradient 0 where the square is not above `smallest`."""
    above = square > smallest
    return jnp.where(above, jnp.sqrt(jnp.where(above, square, 1)), math.sqrt(smallest))


def ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """x / y for y >= 0, and 0 with gradient 0 where y is 0."""
    above = y > 0
    return jnp.where(above, x / jnp.where(above, y, 1), 0)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Rows scaled to length 1; those shorter than 1e-12 become 0, with gradient 0."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return ratio(x, root(square, _SHORTEST**2) * (square > _SHORTEST**2))


def unit_rows(x: jax.Array) -> jax.Array:
    """`unit` along the last axis, with one number for each row, which is what a TPU takes time for.

    The same bits as `unit` for float32, in value and gradient.
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    above = square > _SHORTEST**2
    return x / jnp.where(above, jnp.sqrt(jnp.where(above, square, 1)), jnp.inf)


def centered(x: jax.Array, axis: int = -1) -> jax.Array:
    """x less its mean along an axis; 0 with gradient 0 where x is constant but for rounding."""
    rest = x - jnp.mean(x, axis=axis, keepdims=True)
    spread, size = (jnp.sum(jnp.square(z), axis=axis, keepdims=True) for z in (rest, x))
    return jnp.where(spread > 1e-12 * size, rest, 0)


def mean_square(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean of (student - teacher)^2 over all but the first axis, in float32.

    Args:
      student: [B, ...].
      teacher: the same shape, constant for gradients.

    Returns:
      [B].
    """
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    difference = student.astype(jnp.float32) - teacher
    return jnp.mean(jnp.square(difference), axis=tuple(range(1, difference.ndim)))
