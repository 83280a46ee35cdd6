"""Decoupled knowledge distillation (arXiv 2203.08679)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights
from rrd_jax.objectives.parts.logits import divergence, mixed_loss, scores


def dkd_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> jax.Array:
    """Decoupled distillation: the label's probability, and how the rest is shared out.

        loss = alpha T^2 KL(b_t || b_s) + beta T^2 KL(q_t || q_s)

    with p = softmax(z / T), b = (p(label), 1 - p(label)) and q = p without the label, summing to 1.
    With beta = 1 - p_t(label) and alpha = 1 it is `kd.kd_loss`.

    Args:
      student: [B, C] logits, C >= 2.
      teacher: [B, C] logits, constant for gradients.
      labels: [B] int32.
      temperature: T > 0.
      alpha: weight of the label's part, >= 0.
      beta: weight of the part of all other classes, >= 0.

    Returns:
      [B] losses in nats, >= 0.

    Raises:
      InputError: a value out of range, or fewer than two classes.

    References:
      Zhao et al., arXiv 2203.08679.
    """
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)
    student, teacher = as_matching_float32(student, teacher)
    if student.shape[-1] < 2:
        raise errors.InputError("dkd tells the label from other classes, but there is one class")
    (label_s, rest_s), (label_t, rest_t) = (
        _decoupled(x / temperature, labels) for x in (student, teacher)
    )
    target, rest = divergence(label_t, label_s), divergence(rest_t, rest_s)
    return temperature**2 * (alpha * target + beta * rest)


def dkd(
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
) -> Objective:
    """Decoupled distillation; see `dkd_loss`.

    The paper raises its weight linearly over the first 20 epochs, which is the trainer's to do.

    Args:
      temperature: T > 0.
      alpha: weight of the label's part, >= 0.
      beta: weight of the part of all other classes, >= 0.
      standardize: whether logits are first divided by their deviation, see
        `parts.logits.standardized`.
    """
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)
    options = {"temperature": temperature, "alpha": alpha, "beta": beta}

    def loss(student, teacher, batch):
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return mixed_loss(lambda labels: dkd_loss(*logits, labels, **options), batch)

    return stateless(loss)


def _decoupled(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log (p(label), 1 - p(label)) as [B, 2]; log of the rest's shares as [B, C], 0 at the label.

    1 - p(label) is summed from the rest, since the difference would cancel.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1, keepdims=True)
    label = jnp.sum(jnp.where(is_label, logits, 0), axis=-1, keepdims=True)
    # The zeros at the label, in p and in q alike, add nothing to a divergence.
    shares = jnp.where(is_label, 0, logits - rest)
    return jax.nn.log_softmax(jnp.concatenate([label, rest], axis=-1)), shares


RECORD = Record(
    dkd,
    "the label's probability; how the rest is shared",
    "arXiv 2203.08679",
    warmup=20,
    needs_labels=True,
)
