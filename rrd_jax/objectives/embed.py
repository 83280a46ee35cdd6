"""Embedding distillation: regression of the teacher's embedding."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.arithmetic import unit

# Distance at which smooth L1 becomes linear, in standard deviations.
_BEND = 2.0


def embed_loss(student: jax.Array, teacher: jax.Array, *, distance: str = "cosine") -> jax.Array:
    """Computes the distance between the two networks' embeddings of each image.

        cosine:     1 - cos(s, t)
        smooth_l1:  mean over d of h(s_d - z_d), with z the standardized embedding of the teacher;
                    h(x) = x^2 / 4 up to |x| = 2, then |x| - 1

    Args:
      student: [B, D].
      teacher: [B, D], constant for gradients.
      distance: "cosine", as in arXiv 2211.07636, or "smooth_l1", as in arXiv 2205.14141.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: the distance is unknown.
    """
    distance = errors.lookup("distance", distance, _DISTANCES)
    wide = jnp.promote_types(jnp.result_type(student, teacher), jnp.float32)
    return distance(student.astype(wide), jax.lax.stop_gradient(teacher).astype(wide))


def _cosine(student: jax.Array, teacher: jax.Array) -> jax.Array:
    # Half the squared difference of unit vectors stays accurate if the vectors agree.
    return jnp.sum(jnp.square(unit(student) - unit(teacher)), axis=-1) / 2


def _smooth_l1(student: jax.Array, teacher: jax.Array) -> jax.Array:
    error = jnp.abs(student - jax.nn.standardize(teacher, axis=-1))
    losses = jnp.where(error < _BEND, jnp.square(error) / (2 * _BEND), error - _BEND / 2)
    return jnp.mean(losses, axis=-1)


_DISTANCES = {"cosine": _cosine, "smooth_l1": _smooth_l1}


def embed(
    *, distance: str = "cosine", head: str = "linear", head_width: int | None = None
) -> Objective:
    """Builds the distance between the student's embedding, after a head, and the teacher's.

    Args:
      distance: "cosine" or "smooth_l1"; see `embed_loss`.
      head: head of the student, "linear", or "mlp" for two layers with a ReLU in between.
      head_width: hidden width of the MLP; None for the student's embedding dimension.

    Raises:
      InputError: the distance or head is unknown.
    """
    errors.lookup("distance", distance, _DISTANCES)
    projections.check_head(head, head_width)

    def init(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
        features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
        return ObjectiveState(projections.init_head(key, features, dim, head, head_width))

    def loss(state, student, teacher, batch):
        del batch
        embedding = projections.apply_head(state.params, student.embedding)
        return embed_loss(embedding, teacher.embedding, distance=distance), state.memory

    # The cosine compares normalized vectors.
    is_unit = distance == "cosine"
    return Objective(init, loss, needs_maps=False, head=lambda state: (state.params, is_unit))


RECORD = Record(
    embed,
    "embeddings, per image",
    "arXiv 2211.07636",
    verified=False,
    needs_classes=False,
)
