"""Decoupled knowledge distillation (arXiv 2203.08679)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32, check_labels, check_weights
from rrd_jax.objectives.parts.logits import divergence, mixed_loss, one_against_rest, scores


def dkd_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> jax.Array:
    """Computes decoupled distillation: the label's probability, and the distribution of the rest.

        loss = alpha T^2 KL(b_t || b_s) + beta T^2 KL(q_t || q_s)

    with p = softmax(z / T), b = (p(label), 1 - p(label)) and q = p without the label, summing to 1.
    With beta = 1 - p_t(label) and alpha = 1 the loss is `kd.kd_loss`.

    Args:
      student: [B, C] logits, C >= 2.
      teacher: [B, C] logits, constant for gradients.
      labels: [B] int32, class ids.
      temperature: softmax temperature T, > 0.
      alpha: weight of the label's part, >= 0.
      beta: weight of the part of all other classes, >= 0.

    Returns:
      [B] losses in nats, >= 0.

    Raises:
      InputError: a value or a label is out of range, or there are fewer than two classes.

    References:
      Zhao et al., arXiv 2203.08679.
    """
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)
    student, teacher = as_matching_float32(student, teacher)
    check_labels(labels, student)
    student, teacher = student / temperature, teacher / temperature
    label_s, label_t = (one_against_rest("dkd", x, labels) for x in (student, teacher))
    rest_s, rest_t = (_without_label(x, labels) for x in (student, teacher))
    target, rest = divergence(label_t, label_s), divergence(rest_t, rest_s)
    return temperature**2 * (alpha * target + beta * rest)


def dkd(
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
) -> Objective:
    """Builds decoupled distillation; see `dkd_loss`.

    In the paper, the weight grows linearly over the first 20 epochs; the trainer applies this
    warm-up.

    Args:
      temperature: softmax temperature T, > 0.
      alpha: weight of the label's part, >= 0.
      beta: weight of the part of all other classes, >= 0.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`.
    """
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)
    options = {"temperature": temperature, "alpha": alpha, "beta": beta}

    def loss(student, teacher, batch):
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return mixed_loss(lambda labels: dkd_loss(*logits, labels, **options), batch)

    return stateless(loss)


def _without_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns log q [B, C] of the classes other than the label, 0 at the label."""
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1, keepdims=True)
    # The zeros at the label, in both networks, add nothing to a divergence.
    return jnp.where(is_label, 0, logits - rest)


RECORD = Record(
    dkd,
    "the label's probability, and the distribution over other classes",
    "arXiv 2203.08679",
    warmup=20,
    needs_labels=True,
)
