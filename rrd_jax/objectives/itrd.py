"""ITRD: information theoretic representation distillation (arXiv 2112.00459)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.arithmetic import centered, matmul, ratio, root, unit
from rrd_jax.objectives.parts.checks import as_float32_batches, as_matching_float32, check_weights


def correlation_loss(student: jax.Array, teacher: jax.Array, *, alpha: float = 1.5) -> jax.Array:
    """Computes ITRD's first part: the correlation of each dimension with the teacher's.

        c_d  = 1/B sum_b u[b, d] v[b, d],  u, v = standardized student, teacher (unbiased)
        loss = log2 sum_d |c_d - 1|^(2 alpha)

    Args:
      student: [B, D] embeddings, B >= 2.
      teacher: [B, D] embeddings, constant for gradients.
      alpha: half the exponent of the deviations, >= 0.5; published: 1.5, or 1.01 for networks of
        one family.

    Returns:
      [] the loss, in bits; negative if the networks agree.

    References:
      Miles et al., arXiv 2112.00459.
    """
    _check_alpha(alpha)
    student, teacher = as_matching_float32(student, teacher, smallest=2)
    batch = len(student)
    u, v = (
        ratio(rest, root(jnp.sum(jnp.square(rest), axis=0, keepdims=True) / (batch - 1)))
        for rest in (centered(x, axis=0) for x in (student, teacher))
    )
    missing = jnp.abs(jnp.mean(u * v, axis=0) - 1)
    return jnp.log2(jnp.maximum(jnp.sum(missing ** (2 * alpha)), 1e-30))


def mutual_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes ITRD's second part, from the similarities that student and teacher share.

        A = G_s / tr(G_s),  C = G_s * G_t / tr(G_s * G_t),  loss = sum_ij (A^2 - C^2)

    with G the cosine similarities of the batch's images.

    Args:
      student: [B, D] embeddings.
      teacher: [B, E] embeddings, constant for gradients; E may differ from D.

    Returns:
      [] the loss.

    References:
      Miles et al., arXiv 2112.00459.
    """
    student, teacher = (unit(x) for x in as_float32_batches(student, teacher))
    gram_s, gram_t = matmul(student, student.T), matmul(teacher, teacher.T)
    alone, shared = (ratio(gram, jnp.trace(gram)) for gram in (gram_s, gram_s * gram_t))
    return jnp.sum(jnp.square(alone) - jnp.square(shared))


def itrd(*, alpha: float = 1.5, correlation: float = 2.0, mutual: float = 0.05) -> Objective:
    """Builds ITRD, a weighted sum of `correlation_loss` and `mutual_loss`.

    A trained linear layer maps the student's embedding to the teacher's dimension for the first
    part, and for the second part only if the dimensions differ.

    Args:
      alpha: half the exponent of the deviations, >= 0.5; see `correlation_loss`.
      correlation: weight of `correlation_loss`, >= 0; 2 published, 1 in the reference's benchmark.
      mutual: weight of `mutual_loss`, >= 0; 0.05 published (1 for networks of one family), 1 in the
        reference's benchmark.
    """
    _check_alpha(alpha)
    check_weights(correlation=correlation, mutual=mutual)

    def init(key, student, teacher):
        features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
        return ObjectiveState(params=projections.init(key, features, dim))

    def loss(state, student, teacher, batch):
        del batch
        embedding = functional.linear(student.embedding, **state.params)
        same = student.embedding.shape == teacher.embedding.shape
        correlated = correlation_loss(embedding, teacher.embedding, alpha=alpha)
        shared = mutual_loss(student.embedding if same else embedding, teacher.embedding)
        return correlation * correlated + mutual * shared, state.memory

    return Objective(init, loss, needs_maps=False)


def _check_alpha(alpha: float) -> None:
    if not 0.5 <= alpha < float("inf"):
        raise errors.InputError(f"alpha is {alpha}, but must be a finite number, at least 0.5")


RECORD = Record(
    itrd,
    "dimensions of embeddings, and similarities of images",
    "arXiv 2112.00459",
    needs_classes=False,
)
