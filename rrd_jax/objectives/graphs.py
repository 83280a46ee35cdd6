"""Objectives over correlations, of dimensions or of images, between the two networks: ITRD, EGA."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives import linear
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.linear import batches, centred, matmul, pair, ratio, root, unit
from rrd_jax.objectives.logits import check_weights


def itrd_correlation_loss(
    student: jax.Array, teacher: jax.Array, *, alpha: float = 1.5
) -> jax.Array:
    """ITRD's first part: every dimension correlated with the teacher's over the batch.

        c_d  = 1/B sum_b u[b, d] v[b, d],  u, v = student, teacher in standard deviations (unbiased)
        loss = log2 sum_d |c_d - 1|^(2 alpha)

    Args:
      student: [B, D] embeddings, B >= 2.
      teacher: [B, D], constant for gradients.
      alpha: order, >= 0.5; published: 1.5, or 1.01 between networks of one family.

    Returns:
      [] the loss, in bits. It is below zero where the networks agree.

    References:
      Miles et al., arXiv 2112.00459.
    """
    _check_alpha(alpha)
    student, teacher = pair(student, teacher, smallest=2)
    batch = len(student)
    u, v = (
        ratio(rest, root(jnp.sum(jnp.square(rest), axis=0) / (batch - 1)))
        for rest in (centred(x, axis=0) for x in (student, teacher))
    )
    missing = jnp.abs(jnp.mean(u * v, axis=0) - 1)
    return jnp.log2(jnp.maximum(jnp.sum(missing ** (2 * alpha)), 1e-30))


def itrd_mutual_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """ITRD's second part: similarities of the student that the teacher shares.

        A = G_s / tr(G_s),  C = G_s * G_t / tr(G_s * G_t),  loss = sum_ij (A^2 - C^2)

    with G the cosine similarities of the batch's images.

    Args:
      student: [B, D] embeddings.
      teacher: [B, E], constant for gradients; E may differ from D.

    Returns:
      [] the loss.

    References:
      Miles et al., arXiv 2112.00459.
    """
    student, teacher = (unit(x) for x in batches(student, teacher))
    own, shared = matmul(student, student.T), matmul(teacher, teacher.T)
    own, shared = (ratio(x, jnp.trace(x)) for x in (own, own * shared))
    return jnp.sum(jnp.square(own) - jnp.square(shared))


def ega_loss(
    student: jax.Array, teacher: jax.Array, *, node: float = 1.0, edge: float = 0.3
) -> jax.Array:
    """Graph alignment: each image correlates with itself across the networks, pairs alike in both.

        loss = node |R_ts - I|_F + edge |R_tt - R_ss|_F

    with R the Pearson correlations, over the dimensions, of the batch's images in the two networks.

    Args:
      student: [B, D] embeddings.
      teacher: [B, D], constant for gradients.
      node: weight >= 0.
      edge: weight >= 0.

    Returns:
      [] the loss; it grows with B.

    References:
      Ma et al., arXiv 2211.13264.
    """
    check_weights(node=node, edge=edge)
    student, teacher = (unit(centred(x)) for x in pair(student, teacher))
    across = matmul(teacher, student.T) - jnp.eye(len(student))
    within = matmul(teacher, teacher.T) - matmul(student, student.T)
    return sum(
        weight * root(jnp.sum(jnp.square(x))) for weight, x in ((node, across), (edge, within))
    )


def itrd(*, alpha: float = 1.5, correlation: float = 2.0, mutual: float = 0.05) -> Objective:
    """correlation `itrd_correlation_loss` + mutual `itrd_mutual_loss`.

    The student goes through a trained linear layer of the teacher's length before it is correlated;
    before the second part only where the lengths differ.

    Args:
      alpha: see `itrd_correlation_loss`.
      correlation: weight >= 0; 2 published, 1 in the reference's benchmark.
      mutual: weight >= 0; 0.05 published (1 between networks of one family), 1 in the benchmark.
    """
    _check_alpha(alpha)
    check_weights(correlation=correlation, mutual=mutual)

    def init(key, student, teacher):
        features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
        return ObjectiveState(params=linear.init(key, features, dim))

    def loss(state, student, teacher, batch):
        del batch
        embedding = linear.apply(state.params, student.embedding)
        same = student.embedding.shape == teacher.embedding.shape
        correlated = itrd_correlation_loss(embedding, teacher.embedding, alpha=alpha)
        shared = itrd_mutual_loss(student.embedding if same else embedding, teacher.embedding)
        return correlation * correlated + mutual * shared, state.memory

    return Objective(init, loss, needs_maps=False)


def ega(*, node: float = 1.0, edge: float = 0.3) -> Objective:
    """Graph alignment of the embeddings; see `ega_loss`.

    Where the two networks' lengths differ, the student's goes through a trained linear layer.
    """
    check_weights(node=node, edge=edge)

    def loss(state, student, teacher, batch):
        del batch
        embedding = linear.adapt(state.params, student.embedding)
        return ega_loss(embedding, teacher.embedding, node=node, edge=edge), state.memory

    return Objective(linear.init_adapter, loss, needs_maps=False)


def _check_alpha(alpha: float) -> None:
    if not 0.5 <= alpha < float("inf"):
        raise errors.InputError(f"alpha is {alpha}, but must be a finite number, 0.5 or above")
