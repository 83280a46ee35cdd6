"""Contrastive objectives: an image's two embeddings are alike, those of other images are not."""

import jax
import jax.numpy as jnp

from rrd_jax import errors, memory
from rrd_jax.objectives import bank, linear
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.linear import matmul, pair, project_both
from rrd_jax.objectives.logits import check_weights


def infonce_loss(
    student: jax.Array, teacher: jax.Array, rows: jax.Array, *, temperature: float
) -> jax.Array:
    """Cross-entropy of finding the teacher's embedding of the image among those of others.

        loss = - log softmax([student . teacher, student . m_1, ..., student . m_K] / T)[0]

    Args:
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of the same images; not constant, their projection is trained.
      rows: [K, D] embeddings of other images, constant for gradients.
      temperature: T > 0.

    Returns:
      [B] losses in nats, > 0.

    Raises:
      InputError: the temperature is not above 0, or the shapes do not fit.

    References:
      Tian et al., arXiv 1910.10699, with the queue of arXiv 1911.05722.
    """
    errors.check_positive(temperature=temperature)
    student, teacher = pair(student, teacher, constant=False)
    if rows.ndim != 2 or rows.shape[1] != student.shape[1]:
        raise errors.InputError(f"rows {rows.shape} must be [K, D] with student {student.shape}")
    own = jnp.sum(student * teacher, axis=-1, keepdims=True) / temperature
    others = matmul(student, jax.lax.stop_gradient(rows).T) / temperature
    # Not concatenated: the rows may be spread over devices.
    top = jax.lax.stop_gradient(jnp.maximum(own, jnp.max(others, axis=-1, keepdims=True)))
    total = jnp.exp(own - top) + jnp.sum(jnp.exp(others - top), axis=-1, keepdims=True)
    return (jnp.log(total) + top - own)[:, 0]


def dcd_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.Array | float,
    bias: jax.Array | float = 0.0,
    alpha: float = 0.5,
) -> jax.Array:
    """Discriminative and consistent distillation within the batch; no memory.

        S = scale student teacher^T + bias,  p = softmax of rows of S,  q = softmax of rows of S^T
        loss_i = - log p_ii + alpha sum_j q_ij log(q_ij / p_ij)

    Args:
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of the same images; not constant, their projection is trained. No
        gradient stops at q.
      scale: a multiplier.
      bias: as in the reference; the softmaxes do not depend on it.
      alpha: weight of consistency, >= 0.

    Returns:
      [B] losses in nats, >= 0.

    References:
      arXiv 2407.11802.
    """
    check_weights(alpha=alpha)
    student, teacher = pair(student, teacher, constant=False)
    similarities = scale * matmul(student, teacher.T) + bias
    log_p, log_q = (jax.nn.log_softmax(x, axis=-1) for x in (similarities, similarities.T))
    consistency = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    return alpha * consistency - jnp.diagonal(log_p)


def crd(
    *,
    memory: str = "fifo",
    temperature: float = 0.07,
    negatives: int = 16384,
    dim: int = 128,
    push_before: bool = False,
    initial: str = "unit",
    momentum: float = 0.5,
    examples: int | None = None,
) -> Objective:
    """Contrastive representation distillation (arXiv 1910.10699). Published weight 0.8.

    Both projections are linear layers to length 1 that are trained.

    Args:
      memory: "fifo" for a queue of the teacher's embeddings and `infonce_loss`; "bank" for the
        paper's two banks of all examples, see `bank.crd_bank`.
      temperature: T > 0; with a bank 0.0125 or above.
      negatives: other images K >= 1 that each image is compared with.
      dim: embedding length D.
      push_before: fifo only: whether the batch enters the queue before it is compared with it, as
        in the reference; every image is then among its own negatives.
      initial: fifo only: how the queue starts; see `memory.init_queue`.
      momentum: bank only: how much of a row stays, in [0, 1).
      examples: bank only: number of training images N; the trainer fills it in.

    Raises:
      InputError: an unknown memory or a value out of range.
    """
    errors.check_positive(temperature=temperature, negatives=negatives, dim=dim)
    kinds = {
        "fifo": lambda: _crd_fifo(temperature, negatives, dim, push_before, initial),
        "bank": lambda: bank.crd_bank(
            temperature=temperature,
            negatives=negatives,
            dim=dim,
            momentum=momentum,
            examples=examples,
        ),
    }
    return errors.lookup("memory", memory, kinds)()


def _crd_fifo(temperature: float, size: int, dim: int, before: bool, initial: str) -> Objective:
    def init(key, student, teacher):
        params_key, queue_key = jax.random.split(key)
        return ObjectiveState(
            params=linear.init_both(params_key, student, teacher, dim),
            memory=memory.init_queue(queue_key, size, dim, initial=initial),
        )

    def loss(state, student, teacher, batch):
        del batch
        embedding, target = project_both(state.params, student, teacher)
        pushed = memory.push(state.memory, target)
        rows = pushed.rows if before else state.memory.rows
        return infonce_loss(embedding, target, rows, temperature=temperature), pushed

    return Objective(init, loss, needs_maps=False)


def dcd(
    *,
    dim: int = 128,
    alpha: float = 0.5,
    log_scale: float = 1.0,
    max_scale: float = 10.0,
    scale: float | None = None,
) -> Objective:
    """Discriminative and consistent distillation; see `dcd_loss`. Published weight 1.

    Both projections and the scale are trained. In the reference's code the scale never moves, and
    there is a bias, which changes nothing.

    Args:
      dim: embedding length D.
      alpha: weight of consistency, >= 0.
      log_scale: where the logarithm of the scale starts.
      max_scale: what the scale is limited to, > 0; beyond it has no gradient.
      scale: > 0 for a scale that is not trained; the reference's fixed form is 0.07.
    """
    errors.check_positive(dim=dim, max_scale=max_scale)
    check_weights(alpha=alpha)
    if scale is not None:
        errors.check_positive(scale=scale)

    def init(key, student, teacher):
        params = linear.init_both(key, student, teacher, dim)
        trained = {} if scale is not None else {"log_scale": jnp.float32(log_scale)}
        return ObjectiveState(params=params | trained)

    def loss(state, student, teacher, batch):
        del batch
        embeddings = project_both(state.params, student, teacher)
        factor = scale
        if factor is None:
            factor = jnp.clip(jnp.exp(state.params["log_scale"]), 0, max_scale)
        return dcd_loss(*embeddings, scale=factor, alpha=alpha), state.memory

    return Objective(init, loss, needs_maps=False)
