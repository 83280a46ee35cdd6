"""Similarity-preserving distillation (arXiv 1907.09682)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.arithmetic import matmul, unit
from rrd_jax.objectives.parts.checks import as_float32_batches


def sp_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes similarity-preserving distillation: the distance of similarities within the batch.

        G(x) = rows of X X^T, scaled to length 1;  loss = |G(teacher) - G(student)|^2 / B^2

    Args:
      student: [B, ...] features of any shape, with axes in any order.
      teacher: [B, ...] features of any shape, constant for gradients.

    Returns:
      [B] the sum over each image's row, divided by B; the mean is the loss.

    References:
      Tung and Mori, arXiv 1907.09682.
    """
    student, teacher = (x.reshape(len(x), -1) for x in as_float32_batches(student, teacher))
    rows_student, rows_teacher = (unit(matmul(x, x.T)) for x in (student, teacher))
    return jnp.sum(jnp.square(rows_teacher - rows_student), axis=-1) / len(student)


def sp() -> Objective:
    """Builds similarity-preserving distillation of the last maps; see `sp_loss`."""

    def loss(student, teacher, batch):
        del batch
        return sp_loss(student.maps[-1], teacher.maps[-1])

    return stateless(loss, needs_maps=True)


RECORD = Record(
    sp,
    "similarities of images, from the last maps",
    "arXiv 1907.09682",
    weight=3000.0,
    needs_classes=False,
)
