"""Relational knowledge distillation (arXiv 1904.05068)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.arithmetic import matmul, ratio, root, unit
from rrd_jax.objectives.parts.checks import as_float32_batches, check_weights


def rkd_loss(
    student: jax.Array, teacher: jax.Array, *, distance: float = 25.0, angle: float = 50.0
) -> jax.Array:
    """Relational distillation: equal distances between images, and angles between triples.

        d_ij   = |x_i - x_j| / mean of those above 0;  a_ijk = cos of the angle at i between j and k
        loss   = distance mean_ij h(d_ij) + angle mean_ijk h(a_ijk)

    with h the smooth L1 distance (beta 1) between student and teacher.

    Args:
      student: [B, D] embeddings.
      teacher: [B, E], constant for gradients; E may differ from D.
      distance: weight >= 0.
      angle: weight >= 0. Its arrays are [B, B, B] and [B, B, D].

    Returns:
      [B] the means over the other images.

    References:
      Park et al., arXiv 1904.05068.
    """
    check_weights(distance=distance, angle=angle)
    (distances_s, angles_s), (distances_t, angles_t) = (
        _distances_and_angles(x) for x in as_float32_batches(student, teacher)
    )
    by_distance = jnp.mean(_smooth_l1(distances_s - distances_t), axis=-1)
    by_angle = jnp.mean(_smooth_l1(angles_s - angles_t), axis=(-2, -1))
    return distance * by_distance + angle * by_angle


def rkd(*, distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Relational distillation of the embeddings; see `rkd_loss`."""
    check_weights(distance=distance, angle=angle)

    def loss(student, teacher, batch):
        del batch
        return rkd_loss(student.embedding, teacher.embedding, distance=distance, angle=angle)

    return stateless(loss)


def _distances_and_angles(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, B] distances in units of their mean, [B, B, B] cosines (vertex first)."""
    differences = x[None] - x[:, None]
    away = ~jnp.eye(len(x), dtype=bool)
    distances = jnp.where(away, root(jnp.sum(jnp.square(differences), axis=-1), 1e-12), 0)
    mean = ratio(jnp.sum(distances), jnp.sum(distances > 0).astype(distances.dtype))
    directions = unit(differences)
    return ratio(distances, mean), matmul(directions, directions.swapaxes(-1, -2))


def _smooth_l1(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * jnp.square(x), size - 0.5)


RECORD = Record(
    rkd,
    "distances and angles between embeddings",
    "arXiv 1904.05068",
    needs_classes=False,
)
