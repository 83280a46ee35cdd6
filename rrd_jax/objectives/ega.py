"""EGA: embedding graph alignment (arXiv 2211.13264)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.arithmetic import centered, matmul, root, unit
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights
from rrd_jax.objectives.parts.projections import adapt, init_adapter


def ega_loss(
    student: jax.Array, teacher: jax.Array, *, node: float = 1.0, edge: float = 0.3
) -> jax.Array:
    """Computes graph alignment: correlations of images across networks, and within each network.

        loss = node |R_ts - I|_F + edge |R_tt - R_ss|_F

    with R the Pearson correlations, over the dimensions, of the batch's images in the two networks.

    Args:
      student: [B, D] embeddings.
      teacher: [B, D] embeddings, constant for gradients.
      node: weight of the correlations across networks, >= 0.
      edge: weight of the correlations within networks, >= 0.

    Returns:
      [] the loss, which grows with B.

    References:
      Ma et al., arXiv 2211.13264.
    """
    check_weights(node=node, edge=edge)
    student, teacher = (unit(centered(x)) for x in as_matching_float32(student, teacher))
    across = matmul(teacher, student.T) - jnp.eye(len(student))
    within = matmul(teacher, teacher.T) - matmul(student, student.T)
    return sum(
        weight * root(jnp.sum(jnp.square(x))) for weight, x in ((node, across), (edge, within))
    )


def ega(*, node: float = 1.0, edge: float = 0.3) -> Objective:
    """Builds graph alignment of the embeddings; see `ega_loss`.

    If the embedding dimensions differ, a trained linear layer maps the student's to the teacher's.
    """
    check_weights(node=node, edge=edge)

    def loss(state, student, teacher, batch):
        del batch
        embedding = adapt(state.params, student.embedding)
        return ega_loss(embedding, teacher.embedding, node=node, edge=edge), state.memory

    return Objective(init_adapter, loss, needs_maps=False)


RECORD = Record(
    ega,
    "correlations of embeddings, across and within networks",
    "arXiv 2211.13264",
    verified=False,
    needs_classes=False,
)
