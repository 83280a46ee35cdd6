"""Comparative knowledge distillation (arXiv 2311.02253)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.checks import as_matching_float32
from rrd_jax.objectives.parts.projections import adapt, init_adapter


def ckd_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes comparative distillation: equal differences between all pairs of images.

        loss = mean_ij |(s_i - s_j) - (t_i - t_j)|^2 / D
             = 2 / D mean_i |e_i - mean(e)|^2,  e = s - t

    Args:
      student: [B, D] embeddings.
      teacher: [B, D] embeddings, constant for gradients.

    Returns:
      [B] losses 2 / D |e_i - mean(e)|^2.

    References:
      Wilf et al., arXiv 2311.02253.
    """
    student, teacher = as_matching_float32(student, teacher)
    residual = student - teacher
    spread = residual - jnp.mean(residual, axis=0, keepdims=True)
    return 2 * jnp.mean(jnp.square(spread), axis=-1)


def ckd() -> Objective:
    """Builds comparative distillation of the embeddings; see `ckd_loss`.

    If the embedding dimensions differ, a trained linear layer maps the student's to the teacher's.
    """

    def loss(state, student, teacher, batch):
        del batch
        embedding = adapt(state.params, student.embedding)
        return ckd_loss(embedding, teacher.embedding), state.memory

    return Objective(init_adapter, loss, needs_maps=False)


RECORD = Record(
    ckd,
    "differences between embeddings",
    "arXiv 2311.02253",
    verified=False,
    needs_classes=False,
)
