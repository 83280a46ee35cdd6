"""Checks of the arrays and options that are passed to a loss function."""

import jax
import jax.numpy as jnp
import numpy as np

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
      InputError: a value is not an array of real numbers, the shapes differ, or the batch is too
        small.
    """
    errors.check_arrays(student=student, teacher=teacher)
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
      InputError: a value is not an array of real numbers, or the batch sizes differ, or are too
        small.
    """
    errors.check_arrays(student=student, teacher=teacher)
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


def check_indices(name: str, indices: jax.Array, size: int, owner: str) -> None:
    """Raises an InputError unless the indices are integers and, if concrete, in [0, size).

    JAX clips or drops indices out of bounds without an error.

    Args:
      name: name of the indices in messages.
      indices: an array of any shape.
      size: number of rows or classes.
      owner: description of the rows or classes in messages.
    """
    errors.check_arrays(**{name: indices})
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise errors.InputError(f"{name} is an array of {indices.dtype}, but must be of integers")
    if not errors.is_traced(indices) and indices.size:
        # NumPy, since operations of JAX would become part of a surrounding trace.
        values = np.asarray(indices)
        first, last = values.min(), values.max()
        if first < 0 or last >= size:
            raise errors.InputError(
                f"{name} ranges from {first} to {last}, but must be from 0 to {size - 1} for"
                f" {owner}"
            )


def check_labels(labels: jax.Array, logits: jax.Array) -> None:
    """Raises an InputError unless labels [B] are class ids of logits [B, C]."""
    count = logits.shape[-1]
    check_indices("labels", labels, count, f"logits of {count} classes")
    if labels.shape != logits.shape[:-1]:
        raise errors.InputError(
            f"labels of shape {labels.shape} do not fit logits {logits.shape}; pass labels [B] for"
            " logits [B, C]"
        )


def check_shares(**values: float) -> None:
    """Raises an InputError for a value that is not in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise errors.InputError(f"{name} is {value}, but must be in [0, 1]")


def check_weights(**values: float) -> None:
    """Raises an InputError if a weight is negative or not finite, or if several are all 0."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise errors.InputError(f"{name} is {value}, but must be a finite number, at least 0")
    if len(values) > 1 and not any(values.values()):
        raise errors.InputError(f"{' and '.join(values)} are all 0; set at least one above 0")
