"""Arithmetic that is accurate and finite, in value and gradient, where plain formulas are not."""

import math

import jax
import jax.numpy as jnp

_SHORTEST = 1e-12


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes a @ b in full float32.

    Similarities are divided by temperatures down to 0.02, so the accelerators' default precision,
    about ten mantissa bits, would cause errors of several percent in the softmax.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def root(square: jax.Array, smallest: float = 0.0) -> jax.Array:
    """Computes sqrt(max(square, smallest)), with gradient 0 unless square > smallest."""
    above = square > smallest
    return jnp.where(above, jnp.sqrt(jnp.where(above, square, 1)), math.sqrt(smallest))


def ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes x / y for y >= 0; the result and its gradient are 0 where y is 0."""
    above = y > 0
    return jnp.where(above, x / jnp.where(above, y, 1), 0)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Scales vectors to length 1; vectors shorter than 1e-12 become 0, with gradient 0."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return ratio(x, root(square, _SHORTEST**2) * (square > _SHORTEST**2))


def unit_rows(x: jax.Array) -> jax.Array:
    """Scales rows to length 1 like `unit`, with a single factor per row.

    This form is faster on a TPU. For float32, value and gradient are bit-identical to `unit`.
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    above = square > _SHORTEST**2
    return x / jnp.where(above, jnp.sqrt(jnp.where(above, square, 1)), jnp.inf)


def centered(x: jax.Array, axis: int = -1) -> jax.Array:
    """Subtracts the mean along an axis; gives 0 with gradient 0 if x is constant up to rounding."""
    rest = x - jnp.mean(x, axis=axis, keepdims=True)
    spread, size = (jnp.sum(jnp.square(z), axis=axis, keepdims=True) for z in (rest, x))
    return jnp.where(spread > 1e-12 * size, rest, 0)


def mean_square(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the mean of (student - teacher)^2 over all but the first axis, in float32.

    Args:
      student: [B, ...].
      teacher: the same shape, constant for gradients.

    Returns:
      [B].
    """
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    difference = student.astype(jnp.float32) - teacher
    return jnp.mean(jnp.square(difference), axis=tuple(range(1, difference.ndim)))
