"""Probabilistic knowledge transfer (arXiv 1803.10837)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.arithmetic import matmul, ratio, root
from rrd_jax.objectives.parts.checks import as_float32_batches


def pkt_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes probabilistic knowledge transfer: similarities within the batch as probabilities.

        p(x) = rows of (cos(x_i, x_j) + 1) / 2, scaled to sum 1
        loss = mean_ij p_t log((p_t + 1e-7) / (p_s + 1e-7))

    Args:
      student: [B, D] embeddings.
      teacher: [B, E] embeddings, constant for gradients; E may differ from D.

    Returns:
      [B] losses, each the mean over the images j.

    References:
      Passalis and Tefas, arXiv 1803.10837.
    """
    p_student, p_teacher = (cosine_shares(x) for x in as_float32_batches(student, teacher))
    return jnp.mean(p_teacher * jnp.log((p_teacher + 1e-7) / (p_student + 1e-7)), axis=-1)


def pkt() -> Objective:
    """Builds probabilistic knowledge transfer of the embeddings; see `pkt_loss`."""

    def loss(student, teacher, batch):
        del batch
        return pkt_loss(student.embedding, teacher.embedding)

    return stateless(loss)


def cosine_shares(x: jax.Array) -> jax.Array:
    """Computes (cos(x_i, x_j) + 1) / 2 of rows x [B, D], scaled to sum 1 over j; [B, B]."""
    length = root(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    x = ratio(x, (length + 1e-7) * (length > 0))
    shares = (matmul(x, x.T) + 1) / 2
    return shares / jnp.sum(shares, axis=-1, keepdims=True)


RECORD = Record(
    pkt,
    "similarities of embeddings as probabilities",
    "arXiv 1803.10837",
    weight=30000.0,
    needs_classes=False,
)
