"""Correlation congruence (arXiv 1904.01802)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.checks import as_matching_float32


def cc_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes correlation congruence, in the reference's form on neighbors in the batch.

        d = |student - teacher|;  loss = mean_b sum_j d[b, j] d[b + 1, j], over B - 1 neighbors

    Args:
      student: [B, D] embeddings, B >= 2.
      teacher: [B, D] embeddings; not constant, since their projection is trained.

    Returns:
      [] the loss, which depends on the order of the batch.

    References:
      Peng et al., arXiv 1904.01802.
    """
    student, teacher = as_matching_float32(student, teacher, constant=False, smallest=2)
    difference = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(difference[:-1] * difference[1:], axis=-1))


def cc(*, dim: int = 128) -> Objective:
    """Builds correlation congruence of projected embeddings; see `cc_loss`.

    Args:
      dim: dimension D of the projections, which are trained linear layers for both networks.
    """
    errors.check_counts(dim=dim)

    def init(key, student, teacher):
        return ObjectiveState(params=projections.init_both(key, student, teacher, dim))

    def loss(state, student, teacher, batch):
        del batch
        target = jax.lax.stop_gradient(teacher.embedding)
        embeddings = (
            functional.linear(student.embedding, **state.params["student"]),
            functional.linear(target, **state.params["teacher"]),
        )
        return cc_loss(*embeddings), state.memory

    return Objective(init, loss, needs_maps=False)


RECORD = Record(
    cc,
    "errors of projected embeddings, between neighbors",
    "arXiv 1904.01802",
    weight=0.02,
    needs_classes=False,
)
