"""Objectives over class scores: cross-entropy with the label, and knowledge distillation."""

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, stateless


def kd_loss(student: jax.Array, teacher: jax.Array, *, temperature: float) -> jax.Array:
    """Knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: T > 0; 4 in the distillation literature.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Hinton et al., arXiv 1503.02531.
    """
    errors.check_positive(temperature=temperature)
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    log_p_teacher = jax.nn.log_softmax(teacher / temperature)
    log_p_student = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    divergence = jnp.sum(jnp.exp(log_p_teacher) * (log_p_teacher - log_p_student), axis=-1)
    return temperature**2 * divergence


def ce() -> Objective:
    """Cross-entropy with the label, in nats; of a mixed image, with both its labels by share."""

    def loss(student, teacher, batch):
        del teacher
        logits = student.logits.astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        if "share" not in batch:
            return losses
        others = optax.softmax_cross_entropy_with_integer_labels(logits, batch["other_label"])
        return batch["share"] * losses + (1 - batch["share"]) * others

    return stateless(loss, needs_teacher=False)


def kd(*, temperature: float = 4.0) -> Objective:
    """Knowledge distillation on the logits; see `kd_loss`."""
    errors.check_positive(temperature=temperature)

    def loss(student, teacher, batch):
        del batch
        return kd_loss(student.logits, teacher.logits, temperature=temperature)

    return stateless(loss, needs_teacher=True)
