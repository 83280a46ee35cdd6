"""Comparative knowledge distillation (arXiv 2311.02253)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.checks import as_matching_float32
from rrd_jax.objectives.parts.projections import adapt, init_adapter


def ckd_loss(student: jax.Array, teacher: jax.Array, *, group: int = 0) -> jax.Array:
    """Computes comparative distillation: equal differences between all pairs of images.

        loss = mean_ij |(s_i - s_j) - (t_i - t_j)|^2 / D
             = 2 / D mean_i |e_i - mean(e)|^2,  e = s - t

    With a group size k, the loss also contains |e_i - mean of k others|^2 / D, for the difference
    between an image and the mean of the next k images of the batch, whose order is random. The
    choice of the images is specific to rrd_jax.

    Args:
      student: [B, D] embeddings.
      teacher: [B, D] embeddings, constant for gradients.
      group: size k of the groups, below B; 0 for pairs only.

    Returns:
      [B] losses.

    Raises:
      InputError: the batch is too small for a group.

    References:
      Wilf et al., arXiv 2311.02253.
    """
    student, teacher = as_matching_float32(student, teacher)
    residual = student - teacher
    spread = residual - jnp.mean(residual, axis=0, keepdims=True)
    losses = 2 * jnp.mean(jnp.square(spread), axis=-1)
    if not group:
        return losses
    if group >= len(residual):
        raise errors.InputError(
            f"group is {group}, but must be below the batch size, {len(residual)}"
        )
    others = sum(jnp.roll(residual, -i, axis=0) for i in range(1, group + 1)) / group
    return losses + jnp.mean(jnp.square(residual - others), axis=-1)


def ckd(*, group: int = 0) -> Objective:
    """Builds comparative distillation of the embeddings; see `ckd_loss`.

    If the embedding dimensions differ, a trained linear layer maps the student's to the teacher's.

    Args:
      group: number of images whose mean is compared with an image, in addition to pairs, below the
        batch size; 0 for pairs only.
    """
    if group:
        errors.check_counts(group=group)

    def loss(state, student, teacher, batch):
        del batch
        embedding = adapt(state.params, student.embedding)
        return ckd_loss(embedding, teacher.embedding, group=group), state.memory

    return Objective(init_adapter, loss, needs_maps=False)


RECORD = Record(
    ckd,
    "differences between embeddings",
    "arXiv 2311.02253",
    verified=False,
    needs_classes=False,
)
