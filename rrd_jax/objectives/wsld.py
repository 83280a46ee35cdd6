"""Weighted soft labels (arXiv 2102.00650)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32
from rrd_jax.objectives.parts.logits import cross_entropy, mixed_loss, scores


def wsld_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 2.0,
    alpha: float = 2.5,
    standardize: bool = False,
) -> jax.Array:
    """Computes weighted soft labels: the teacher's weight grows with the student's relative loss.

        w    = 1 - exp(-CE(student, label) / (CE(teacher, label) + 1e-7))
        loss = CE(student, label) - alpha T^2 w sum_k p_t(k) log p_s(k),  p = softmax(z / T)

    The loss includes the cross-entropy CE, so use it without `ce`.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits. The teacher and w are constant for gradients.
      labels: [B] int32, class ids.
      temperature: softmax temperature T, > 0.
      alpha: weight of the soft part, > 0.
      standardize: whether logits are standardized over the classes before the softmax, except in
        CE; see `parts.logits.standardized`.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Zhou et al., arXiv 2102.00650.
    """
    errors.check_positive(temperature=temperature, alpha=alpha)
    soft_student, soft_teacher = scores(student, teacher, standardize=standardize)
    student, teacher = as_matching_float32(student, teacher)
    hard, hard_teacher = (cross_entropy(x, labels) for x in (student, teacher))
    weight = -jnp.expm1(-jax.lax.stop_gradient(hard / (hard_teacher + 1e-7)))
    p_teacher = jax.nn.softmax(soft_teacher / temperature)
    soft = -jnp.sum(p_teacher * jax.nn.log_softmax(soft_student / temperature), axis=-1)
    return hard + alpha * temperature**2 * weight * soft


def wsld(*, temperature: float = 2.0, alpha: float = 2.5, standardize: bool = False) -> Objective:
    """Builds weighted soft labels; see `wsld_loss`.

    The loss includes the cross-entropy with the labels, so the weight of `ce` should be 0.
    """
    errors.check_positive(temperature=temperature, alpha=alpha)
    options = {"temperature": temperature, "alpha": alpha, "standardize": standardize}

    def loss(student, teacher, batch):
        return mixed_loss(
            lambda labels: wsld_loss(student.logits, teacher.logits, labels, **options), batch
        )

    return stateless(loss)


RECORD = Record(
    wsld,
    "softened probabilities, weighted by the student's relative loss; includes ce",
    "arXiv 2102.00650",
    # The loss includes the cross-entropy.
    company={"ce": 0.0},
    needs_labels=True,
)
