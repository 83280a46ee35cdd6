"""What objectives over embeddings share: exact products, safe lengths, a linear adapter."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import ObjectiveState

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


def unit(x: jax.Array) -> jax.Array:
    """Rows scaled to length 1; those shorter than 1e-12 become 0, with gradient 0."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return ratio(x, root(square, _SHORTEST**2) * (square > _SHORTEST**2))


def centred(x: jax.Array, axis: int = -1) -> jax.Array:
    """x less its mean along an axis; 0 with gradient 0 where x is constant but for rounding."""
    rest = x - jnp.mean(x, axis=axis, keepdims=True)
    squares = (jnp.sum(jnp.square(z), axis=axis, keepdims=True) for z in (rest, x))
    return jnp.where(next(squares) > 1e-12 * next(squares), rest, 0)


def init(key: jax.Array, features: int, dim: int) -> dict[str, jax.Array]:
    """Kernel and bias uniform in +-1/sqrt(features), as PyTorch's Linear starts."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(features)
    return {
        "kernel": jax.random.uniform(kernel_key, (features, dim), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (dim,), minval=-bound, maxval=bound),
    }


def apply(params: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """features @ kernel + bias: [B, F] to [B, D] float32."""
    return functional.linear(features, **params)


def project(params: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """unit(features @ kernel + bias): features [B, F] to embeddings [B, D] of length 1."""
    return unit(apply(params, features))


def pair(
    student: jax.Array, teacher: jax.Array, *, constant: bool = True, smallest: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Both as float32, for comparison of what has the same shape.

    Args:
      student: [B, D].
      teacher: [B, D].
      constant: whether gradients stop at the teacher.
      smallest: batch size that the comparison needs.

    Raises:
      InputError: the shapes differ, or the batch is too small.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise errors.InputError(
            f"student {student.shape} and teacher {teacher.shape} must both be [B, D]"
        )
    return batches(student, teacher, constant=constant, smallest=smallest)


def batches(
    student: jax.Array, teacher: jax.Array, *, constant: bool = True, smallest: int = 1
) -> tuple[jax.Array, jax.Array]:
    """The same for two batches [B, ...] of anything.

    Raises:
      InputError: the batches differ in length, or are too small.
    """
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher):
        raise errors.InputError(
            f"student {student.shape} and teacher {teacher.shape} must be batches of one size"
        )
    if len(student) < smallest:
        raise errors.InputError(
            f"a batch of {len(student)} is too small: this objective compares its images with each"
            f" other and needs {smallest}"
        )
    if constant:
        teacher = jax.lax.stop_gradient(teacher)
    return student.astype(jnp.float32), teacher.astype(jnp.float32)


def init_adapter(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
    """A trained layer from the student's length to the teacher's; none where they are equal."""
    features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
    return ObjectiveState(params=init(key, features, dim) if features != dim else ())


def adapt(params: dict[str, jax.Array] | tuple[()], features: jax.Array) -> jax.Array:
    """Features [B, F] in the teacher's length [B, D], float32; as they are where params is ()."""
    return apply(params, features) if params else features.astype(jnp.float32)


def init_both(
    key: jax.Array, student: Any, teacher: Any, dim: int
) -> dict[str, dict[str, jax.Array]]:
    """A projection of each network's embedding to length D, from their Outputs as shapes."""
    outputs = {"student": student, "teacher": teacher}
    return {
        name: init(own, outputs[name].embedding.shape[-1], dim)
        for name, own in zip(outputs, jax.random.split(key), strict=True)
    }


def project_both(params: Any, student: Any, teacher: Any) -> tuple[jax.Array, jax.Array]:
    """Embeddings [B, D] of length 1 of both networks' Outputs, through `init_both`'s layers."""
    target = jax.lax.stop_gradient(teacher.embedding)
    return project(params["student"], student.embedding), project(params["teacher"], target)
