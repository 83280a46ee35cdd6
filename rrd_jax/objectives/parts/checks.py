"""Checks of the arrays and options that are passed to a loss function."""

import jax
import jax.numpy as jnp

from rrd_jax import errors


def as_matching_float32(
    student: jax.Array, teacher: jax.Array, *, constant: bool = True, smallest: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Returns both arrays as float32, for an elementwise comparison.

    Args:
      student: [B, D].
      teacher: [B, D].
      constant: whether the teacher is constant for gradients.
      smallest: minimal batch size of the comparison.

    Raises:
      InputError: the shapes differ, or the batch is too small.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise errors.InputError(
            f"student {student.shape} and teacher {teacher.shape} must both be [B, D]"
        )
    return as_float32_batches(student, teacher, constant=constant, smallest=smallest)


def as_float32_batches(
    student: jax.Array, teacher: jax.Array, *, constant: bool = True, smallest: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Returns both arrays as float32, for a comparison of relations within the batch.

    Args:
      student: [B, ...].
      teacher: [B, ...]; only B must agree.
      constant: whether the teacher is constant for gradients.
      smallest: minimal batch size of the comparison.

    Raises:
      InputError: the batch sizes differ, or are too small.
    """
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher):
        raise errors.InputError(
            f"student {student.shape} and teacher {teacher.shape} must be batches of equal size"
        )
    if len(student) < smallest:
        raise errors.InputError(
            f"a batch of {len(student)} is too small for an objective that compares images with"
            f" each other; use at least {smallest}"
        )
    if constant:
        teacher = jax.lax.stop_gradient(teacher)
    return student.astype(jnp.float32), teacher.astype(jnp.float32)


def check_weights(**values: float) -> None:
    """Raises an InputError if a weight is negative or not finite, or if several are all 0."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise errors.InputError(f"{name} is {value}, but must be a finite number, at least 0")
    if len(values) > 1 and not any(values.values()):
        raise errors.InputError(f"{' and '.join(values)} are all 0; set at least one above 0")
