"""Refined logit distillation (arXiv 2408.07703)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32, check_labels, check_weights
from rrd_jax.objectives.parts.logits import divergence, mixed_loss, one_against_rest, scores


def rld_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> jax.Array:
    """Computes refined distillation: the teacher's confidence, and the classes below the label.

        loss = alpha T_1^2 KL(b_t || b_s) + beta T^2 KL(q_t || q_s)

    with b_t = (p, 1 - p) for the teacher's largest probability p, b_s = (p, 1 - p) for the
    student's probability of the label, both at temperature T_1, and q the distribution over the
    classes whose logit the teacher ranks below the label's, at temperature T. A class that the
    teacher wrongly prefers to the label is not learned. If the teacher ranks the label last, the
    second part is 0.

    Args:
      student: [B, C] logits, C >= 2.
      teacher: [B, C] logits, constant for gradients.
      labels: [B] int32, class ids.
      alpha: weight of the confidence, >= 0.
      beta: weight of the distribution, >= 0.
      temperature: softmax temperature T of the distribution, > 0.
      confidence_temperature: softmax temperature T_1 of the confidence, > 0.

    Returns:
      [B] losses in nats, >= 0.

    Raises:
      InputError: a value or a label is out of range, or there are fewer than two classes.

    References:
      Sun et al., arXiv 2408.07703.
    """
    _check(alpha, beta, temperature, confidence_temperature)
    student, teacher = as_matching_float32(student, teacher)
    check_labels(labels, student)
    top = jnp.argmax(teacher, axis=-1)
    confidence = divergence(
        one_against_rest("rld", teacher / confidence_temperature, top),
        one_against_rest("rld", student / confidence_temperature, labels),
    )
    label_score = jnp.take_along_axis(teacher, labels[:, None], axis=-1)
    below = teacher < label_score
    rest_t, rest_s = (_within(x / temperature, below) for x in (teacher, student))
    rest = jnp.sum(jnp.where(below, jnp.exp(rest_t) * (rest_t - rest_s), 0), axis=-1)
    return alpha * confidence_temperature**2 * confidence + beta * temperature**2 * rest


def _within(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """Returns log-probabilities [B, C] over the chosen classes; 0 for other classes."""
    # A row without a chosen class is replaced, since its logsumexp has no finite gradient.
    some = jnp.any(chosen, axis=-1, keepdims=True)
    inside = jnp.where(chosen | ~some, logits, -jnp.inf)
    return jnp.where(chosen, logits - jax.nn.logsumexp(inside, axis=-1, keepdims=True), 0)


def rld(
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
    standardize: bool = False,
) -> Objective:
    """Builds refined distillation; see `rld_loss`.

    In the published code, the weight grows linearly over the first 20 epochs; the trainer applies
    this warm-up. Published for ImageNet: beta 0.5 for ResNet-34 to ResNet-18 and 2 for ResNet-50 to
    MobileNetV1, both temperatures 1, no warm-up.

    Args:
      alpha: weight of the teacher's confidence, >= 0.
      beta: weight of the distribution over classes below the label, >= 0.
      temperature: softmax temperature of the distribution, > 0.
      confidence_temperature: softmax temperature of the confidence, > 0.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`. Published with temperature 2 and weight 9.
    """
    _check(alpha, beta, temperature, confidence_temperature)
    options = {
        "alpha": alpha,
        "beta": beta,
        "temperature": temperature,
        "confidence_temperature": confidence_temperature,
    }

    def loss(student, teacher, batch):
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return mixed_loss(lambda labels: rld_loss(*logits, labels, **options), batch)

    return stateless(loss)


def _check(alpha: float, beta: float, temperature: float, confidence_temperature: float) -> None:
    errors.check_positive(temperature=temperature, confidence_temperature=confidence_temperature)
    check_weights(alpha=alpha, beta=beta)


RECORD = Record(
    rld,
    "the teacher's confidence, and the distribution over classes below the label",
    "arXiv 2408.07703",
    warmup=20,
    needs_labels=True,
)
