"""The teacher's embedding itself, as a target: feature distillation of one vector."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.arithmetic import unit

_BEND = 2.0  # where smooth L1 becomes linear, in standard deviations


def embed_loss(student: jax.Array, teacher: jax.Array, *, distance: str = "cosine") -> jax.Array:
    """The distance of two embeddings of an image.

        cosine:     1 - cos(s, t)
        smooth_l1:  mean over d of h(s_d - z_d), z the teacher's embedding less its mean, divided by
                    its deviation; h(x) = x^2 / 4 up to |x| = 2, then |x| - 1

    Args:
      student: [B, D].
      teacher: [B, D], constant for gradients.
      distance: "cosine", as arXiv 2211.07636 has it, or "smooth_l1", as arXiv 2205.14141.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: another distance.
    """
    distance = errors.lookup("distance", distance, _DISTANCES)
    wide = jnp.promote_types(jnp.result_type(student, teacher), jnp.float32)
    return distance(student.astype(wide), jax.lax.stop_gradient(teacher).astype(wide))


def _cosine(student: jax.Array, teacher: jax.Array) -> jax.Array:
    # Half the square of the difference of unit vectors keeps its digits where they agree.
    return jnp.sum(jnp.square(unit(student) - unit(teacher)), axis=-1) / 2


def _smooth_l1(student: jax.Array, teacher: jax.Array) -> jax.Array:
    off = jnp.abs(student - jax.nn.standardize(teacher, axis=-1))
    bent = jnp.where(off < _BEND, jnp.square(off) / (2 * _BEND), off - _BEND / 2)
    return jnp.mean(bent, axis=-1)


_DISTANCES = {"cosine": _cosine, "smooth_l1": _smooth_l1}


def embed(
    *, distance: str = "cosine", head: str = "linear", head_width: int | None = None
) -> Objective:
    """The student's embedding, through a head of the teacher's length, beside the teacher's.

    Args:
      distance: "cosine" or "smooth_l1"; see `embed_loss`.
      head: "linear", or "mlp" for two layers with a ReLU between them.
      head_width: hidden features of the MLP; None for the student's own.

    Raises:
      InputError: an unknown distance or head.
    """
    errors.lookup("distance", distance, _DISTANCES)
    projections.check_head(head, head_width)

    def init(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
        features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
        return ObjectiveState(projections.init_head(key, features, dim, head, head_width))

    def loss(state, student, teacher, batch):
        del batch
        found = projections.apply_head(state.params, student.embedding)
        return embed_loss(found, teacher.embedding, distance=distance), state.memory

    is_unit = distance == "cosine"  # which knows no lengths
    return Objective(init, loss, needs_maps=False, head=lambda state: (state.params, is_unit))


RECORD = Record(
    embed,
    "embeddings, one beside the other",
    "arXiv 2211.07636",
    verified=False,
    needs_classes=False,
)
