"""Relational knowledge distillation (arXiv 1904.05068)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.arithmetic import matmul, ratio, root, unit
from rrd_jax.objectives.parts.checks import as_float32_batches, check_weights

# Numbers in an array of angles or directions that are computed at once: 4 MB.
_AT_ONCE = 2**20


def rkd_loss(
    student: jax.Array, teacher: jax.Array, *, distance: float = 25.0, angle: float = 50.0
) -> jax.Array:
    """Computes relational distillation: distances between pairs, and angles of triples of images.

        d_ij   = |x_i - x_j| / mean of those above 0;  a_ijk = cos of the angle at i between j and k
        loss   = distance mean_ij h(d_ij) + angle mean_ijk h(a_ijk)

    with h the smooth L1 distance (beta 1) between student and teacher.

    Args:
      student: [B, D] embeddings.
      teacher: [B, E] embeddings, constant for gradients; E may differ from D.
      distance: weight of the distances, >= 0.
      angle: weight of the angles, >= 0. The arrays have shapes [B, B, B] and [B, B, D]; above 2^20
        numbers, they are computed in parts, and recomputed in the backward pass.

    Returns:
      [B] losses, each the mean over the images j and k.

    References:
      Park et al., arXiv 1904.05068.
    """
    check_weights(distance=distance, angle=angle)
    student, teacher = as_float32_batches(student, teacher)
    by_distance = jnp.mean(_smooth_l1(_distances(student) - _distances(teacher)), axis=-1)
    return distance * by_distance + angle * _by_angle(student, teacher)


def rkd(*, distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Builds relational distillation of the embeddings; see `rkd_loss`."""
    check_weights(distance=distance, angle=angle)

    def loss(student, teacher, batch):
        del batch
        return rkd_loss(student.embedding, teacher.embedding, distance=distance, angle=angle)

    return stateless(loss)


def _distances(x: jax.Array) -> jax.Array:
    """Returns distances [B, B], divided by their mean."""
    distances = _by_vertex(
        lambda v: root(jnp.sum(jnp.square(_differences(v, x)), axis=-1), 1e-12), x
    )
    distances = jnp.where(jnp.eye(len(x), dtype=bool), 0, distances)
    mean = ratio(jnp.sum(distances), jnp.sum(distances > 0).astype(distances.dtype))
    return ratio(distances, mean)


def _by_angle(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns the mean of h over all angles at each image, [B]."""

    def vertex_loss(vertex_s, vertex_t):
        difference = _angles(vertex_s, student) - _angles(vertex_t, teacher)
        return jnp.mean(_smooth_l1(difference), axis=(-2, -1))

    return _by_vertex(vertex_loss, student, teacher)


def _by_vertex(function: Callable, *arrays: jax.Array) -> jax.Array:
    """Returns function(*arrays), computed in parts that bound the size of intermediate arrays.

    Args:
      function: function from rows [V, D] of each array to [V, ...], independent per row.
      *arrays: [B, D] each.
    """
    batch = len(arrays[0])
    width = max(1, _AT_ONCE // (batch * max(batch, *(x.shape[1] for x in arrays))))
    if width >= batch:
        return function(*arrays)
    parts = -(-batch // width)

    def split(x):
        # Parts are strided over the batch, so that each part is sharded like the batch.
        padded = jnp.pad(x, ((0, parts * width - batch), (0, 0)))
        return padded.reshape(width, parts, -1).swapaxes(0, 1)

    checkpointed = jax.checkpoint(lambda vertices: function(*vertices))
    result = jax.lax.map(checkpointed, tuple(map(split, arrays)))
    return result.swapaxes(0, 1).reshape(parts * width, *result.shape[2:])[:batch]


def _differences(vertices: jax.Array, x: jax.Array) -> jax.Array:
    """Returns differences [V, B, D] of x [B, D] from vertices [V, D]."""
    return x[None] - vertices[:, None]


def _angles(vertices: jax.Array, x: jax.Array) -> jax.Array:
    """Returns cosines [V, B, B] of the angles at vertices [V, D] between pairs of x [B, D]."""
    directions = unit(_differences(vertices, x))
    return matmul(directions, directions.swapaxes(-1, -2))


def _smooth_l1(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * jnp.square(x), size - 0.5)


RECORD = Record(
    rkd,
    "distances and angles between embeddings",
    "arXiv 1904.05068",
    needs_classes=False,
)
