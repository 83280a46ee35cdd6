"""Objectives that compare how the images of a batch relate to each other."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives import linear
from rrd_jax.objectives.base import Objective, ObjectiveState, stateless
from rrd_jax.objectives.linear import batches, matmul, pair, ratio, root, unit
from rrd_jax.objectives.logits import check_weights


def sp_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Similarity-preserving distillation: equal similarities of the batch's images.

        G(x) = rows of X X^T, scaled to length 1;  loss = |G(teacher) - G(student)|^2 / B^2

    Args:
      student: [B, ...] features of any shape; the order of their axes does not matter.
      teacher: [B, ...], of any other shape, constant for gradients.

    Returns:
      [B] each image's row of the sum, over B; their mean is the loss.

    References:
      Tung and Mori, arXiv 1907.09682.
    """
    student, teacher = (x.reshape(len(x), -1) for x in batches(student, teacher))
    rows_student, rows_teacher = (unit(matmul(x, x.T)) for x in (student, teacher))
    return jnp.sum(jnp.square(rows_teacher - rows_student), axis=-1) / len(student)


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
        _distances_and_angles(x) for x in batches(student, teacher)
    )
    by_distance = jnp.mean(_smooth_l1(distances_s - distances_t), axis=-1)
    by_angle = jnp.mean(_smooth_l1(angles_s - angles_t), axis=(-2, -1))
    return distance * by_distance + angle * by_angle


def pkt_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Probabilistic knowledge transfer: similarities of the batch's images as probabilities.

        p(x) = rows of (cos(x_i, x_j) + 1) / 2, scaled to sum 1
        loss = mean_ij p_t log((p_t + 1e-7) / (p_s + 1e-7))

    Args:
      student: [B, D] embeddings.
      teacher: [B, E], constant for gradients; E may differ from D.

    Returns:
      [B] the means over the other images.

    References:
      Passalis and Tefas, arXiv 1803.10837.
    """
    p_student, p_teacher = (_cosine_shares(x) for x in batches(student, teacher))
    return jnp.mean(p_teacher * jnp.log((p_teacher + 1e-7) / (p_student + 1e-7)), axis=-1)


def cc_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Correlation congruence, in the form of the reference: neighbours that err alike.

        d = |student - teacher|;  loss = mean_b sum_j d[b, j] d[b + 1, j], over the B - 1 neighbours

    Args:
      student: [B, D] embeddings, B >= 2.
      teacher: [B, D] embeddings; not constant, since their projection is trained.

    Returns:
      [] the loss. It depends on the order of the batch.

    References:
      Peng et al., arXiv 1904.01802.
    """
    student, teacher = pair(student, teacher, constant=False, smallest=2)
    difference = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(difference[:-1] * difference[1:], axis=-1))


def ckd_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Comparative distillation: equal differences between all two images of the batch.

        loss = mean_ij |(s_i - s_j) - (t_i - t_j)|^2 / D
             = 2 / D mean_i |e_i - mean(e)|^2,  e = s - t

    Args:
      student: [B, D] embeddings.
      teacher: [B, D], constant for gradients.

    Returns:
      [B] 2 / D |e_i - mean(e)|^2.

    References:
      Wilf et al., arXiv 2311.02253.
    """
    student, teacher = pair(student, teacher)
    residual = student - teacher
    spread = residual - jnp.mean(residual, axis=0)
    return 2 * jnp.mean(jnp.square(spread), axis=-1)


def sp() -> Objective:
    """Similarity-preserving distillation of the last maps; see `sp_loss`. Published weight 3000."""

    def loss(student, teacher, batch):
        del batch
        return sp_loss(_last_map(student, "student"), _last_map(teacher, "teacher"))

    return stateless(loss, needs_maps=True)


def rkd(*, distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Relational distillation of the embeddings; see `rkd_loss`. Published weight 1."""
    check_weights(distance=distance, angle=angle)

    def loss(student, teacher, batch):
        del batch
        return rkd_loss(student.embedding, teacher.embedding, distance=distance, angle=angle)

    return stateless(loss)


def pkt() -> Objective:
    """Probabilistic knowledge transfer; see `pkt_loss`. Published weight 30000."""

    def loss(student, teacher, batch):
        del batch
        return pkt_loss(student.embedding, teacher.embedding)

    return stateless(loss)


def cc(*, dim: int = 128) -> Objective:
    """Correlation congruence of projected embeddings; see `cc_loss`. Published weight 0.02.

    Args:
      dim: length D that both are projected to, by linear layers that are both trained.
    """
    errors.check_positive(dim=dim)

    def init(key, student, teacher):
        return ObjectiveState(params=linear.init_both(key, student, teacher, dim))

    def loss(state, student, teacher, batch):
        del batch
        embeddings = (
            linear.apply(state.params["student"], student.embedding),
            linear.apply(state.params["teacher"], jax.lax.stop_gradient(teacher.embedding)),
        )
        return cc_loss(*embeddings), state.memory

    return Objective(init, loss, needs_maps=False)


def ckd() -> Objective:
    """Comparative distillation of the embeddings; see `ckd_loss`.

    Where the two networks' lengths differ, the student's goes through a trained linear layer.
    """

    def loss(state, student, teacher, batch):
        del batch
        embedding = linear.adapt(state.params, student.embedding)
        return ckd_loss(embedding, teacher.embedding), state.memory

    return Objective(linear.init_adapter, loss, needs_maps=False)


def _last_map(outputs: Any, whose: str) -> jax.Array:
    if not outputs.maps:
        raise errors.InputError(f"objective 'sp' compares last maps, but the {whose} has no maps")
    return outputs.maps[-1]


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


def _cosine_shares(x: jax.Array) -> jax.Array:
    length = root(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    x = ratio(x, (length + 1e-7) * (length > 0))
    shares = (matmul(x, x.T) + 1) / 2
    return shares / jnp.sum(shares, axis=-1, keepdims=True)
