"""DCD: discriminative and consistent distillation (arXiv 2407.11802)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.arithmetic import matmul
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights


def dcd_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.Array | float,
    bias: jax.Array | float = 0.0,
    alpha: float = 0.5,
) -> jax.Array:
    """Computes discriminative and consistent distillation within the batch, without a memory.

        S = scale student teacher^T + bias,  p = softmax of rows of S,  q = softmax of rows of S^T
        loss_i = - log p_ii + alpha sum_j q_ij log(q_ij / p_ij)

    Args:
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of the same images; not constant, since their projection is
        trained. Gradients also flow through q.
      scale: factor of the similarities.
      bias: constant added to the similarities, as in the reference; it cancels in the softmaxes.
      alpha: weight of the consistency term, >= 0.

    Returns:
      [B] losses in nats, >= 0.

    References:
      arXiv 2407.11802.
    """
    check_weights(alpha=alpha)
    student, teacher = as_matching_float32(student, teacher, constant=False)
    similarities = scale * matmul(student, teacher.T) + bias
    log_p, log_q = (jax.nn.log_softmax(x, axis=-1) for x in (similarities, similarities.T))
    consistency = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    return alpha * consistency - jnp.diagonal(log_p)


def dcd(
    *,
    dim: int = 128,
    alpha: float = 0.5,
    log_scale: float = 1.0,
    max_scale: float = 10.0,
    scale: float | None = None,
) -> Objective:
    """Builds discriminative and consistent distillation; see `dcd_loss`.

    Both projections and the scale are trained. In the reference's code the scale stays constant,
    and there is a bias, which has no effect.

    Args:
      dim: embedding dimension D.
      alpha: weight of the consistency term, >= 0.
      log_scale: initial logarithm of the scale, from -20 to 20.
      max_scale: upper limit of the scale, > 0; above the limit, the scale has no gradient.
      scale: constant scale > 0, which is not trained, such as the reference's 0.07; None for a
        trained scale.

    Raises:
      InputError: a value is out of range.
    """
    errors.check_positive(dim=dim, max_scale=max_scale)
    if not -20 <= log_scale <= 20:
        raise errors.InputError(f"log_scale is {log_scale}, but must be from -20 to 20")
    check_weights(alpha=alpha)
    if scale is not None:
        errors.check_positive(scale=scale)

    def init(key, student, teacher):
        params = projections.init_both(key, student, teacher, dim)
        trained = {} if scale is not None else {"log_scale": jnp.float32(log_scale)}
        return ObjectiveState(params=params | trained)

    def loss(state, student, teacher, batch):
        del batch
        embeddings = projections.project_both(state.params, student, teacher)
        factor = scale
        if factor is None:
            factor = jnp.clip(jnp.exp(state.params["log_scale"]), 0, max_scale)
        return dcd_loss(*embeddings, scale=factor, alpha=alpha), state.memory

    return Objective(init, loss, needs_maps=False)


RECORD = Record(
    dcd,
    "embeddings within the batch, by contrast and consistency",
    "arXiv 2407.11802",
    needs_classes=False,
)
