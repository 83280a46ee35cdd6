"""Relational knowledge distillation (arXiv 1904.05068)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.arithmetic import matmul, ratio, root, unit
from rrd_jax.objectives.parts.checks import as_float32_batches, check_weights

_AT_ONCE = 2**20  # numbers of an array of angles or directions: 4 MB


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
      angle: weight >= 0. Its arrays are [B, B, B] and [B, B, D]; where they have more than 2^20
        numbers, they are made for some vertices at a time, again for the gradient.

    Returns:
      [B] the means over the other images.

    References:
      Park et al., arXiv 1904.05068.
    """
    check_weights(distance=distance, angle=angle)
    student, teacher = as_float32_batches(student, teacher)
    by_distance = jnp.mean(_smooth_l1(_distances(student) - _distances(teacher)), axis=-1)
    return distance * by_distance + angle * _by_angle(student, teacher)


def rkd(*, distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Relational distillation of the embeddings; see `rkd_loss`."""
    check_weights(distance=distance, angle=angle)

    def loss(student, teacher, batch):
        del batch
        return rkd_loss(student.embedding, teacher.embedding, distance=distance, angle=angle)

    return stateless(loss)


def _distances(x: jax.Array) -> jax.Array:
    """[B, B] in units of their mean."""
    distances = _by_vertex(lambda v: root(jnp.sum(jnp.square(_from(v, x)), axis=-1), 1e-12), x)
    distances = jnp.where(jnp.eye(len(x), dtype=bool), 0, distances)
    mean = ratio(jnp.sum(distances), jnp.sum(distances > 0).astype(distances.dtype))
    return ratio(distances, mean)


def _by_angle(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """[B]: for each image as the vertex, the mean of h over the angles to all two images."""

    def of(vertex_s, vertex_t):
        difference = _angles(vertex_s, student) - _angles(vertex_t, teacher)
        return jnp.mean(_smooth_l1(difference), axis=(-2, -1))

    return _by_vertex(of, student, teacher)


def _by_vertex(function: Callable, *arrays: jax.Array) -> jax.Array:
    """function(rows of each array), for all rows [B, D], of which few enough are taken at a time.

    Args:
      function: ([V, D] of each array) -> [V, ...], of each vertex by itself.
      *arrays: [B, D] each.
    """
    batch = len(arrays[0])
    width = max(1, _AT_ONCE // (batch * max(batch, *(x.shape[1] for x in arrays))))
    if width >= batch:
        return function(*arrays)
    parts = -(-batch // width)

    def split(x):
        # A part has every so manyth image, so that devices that share the batch share each part.
        padded = jnp.pad(x, ((0, parts * width - batch), (0, 0)))
        return padded.reshape(width, parts, -1).swapaxes(0, 1)

    checkpointed = jax.checkpoint(lambda vertices: function(*vertices))
    result = jax.lax.map(checkpointed, tuple(map(split, arrays)))
    return result.swapaxes(0, 1).reshape(parts * width, *result.shape[2:])[:batch]


def _from(vertices: jax.Array, x: jax.Array) -> jax.Array:
    """[V, B, D] differences of x [B, D] from vertices [V, D]."""
    return x[None] - vertices[:, None]


def _angles(vertices: jax.Array, x: jax.Array) -> jax.Array:
    """[V, B, B] cosines of the angles at vertices [V, D] between all two of x [B, D]."""
    directions = unit(_from(vertices, x))
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
