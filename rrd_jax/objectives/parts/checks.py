"""Checks of arrays and options at the border of a loss function."""

import jax
import jax.numpy as jnp

from rrd_jax import errors


def as_matching_float32(
    student: jax.Array, teacher: jax.Array, *, constant: bool = True, smallest: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Both arrays as float32, for a comparison value by value.

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
    return as_float32_batches(student, teacher, constant=constant, smallest=smallest)


def as_float32_batches(
    student: jax.Array, teacher: jax.Array, *, constant: bool = True, smallest: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Both arrays as float32, for a comparison of what each says about the batch.

    Args:
      student: [B, ...].
      teacher: [B, ...], of any other shape.
      constant: whether gradients stop at the teacher.
      smallest: batch size that the comparison needs.

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


def check_weights(**values: float) -> None:
    """Raises an InputError for a value below zero or not finite, and for several that are all 0."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise errors.InputError(f"{name} is {value}, but must be a finite number, 0 or above")
    if len(values) > 1 and not any(values.values()):
        raise errors.InputError(f"{' and '.join(values)} are all 0: nothing would be compared")
