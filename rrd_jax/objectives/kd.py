"""Knowledge distillation (arXiv 1503.02531)."""

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32
from rrd_jax.objectives.parts.logits import divergence, scores


def kd_loss(student: jax.Array, teacher: jax.Array, *, temperature: float) -> jax.Array:
    """Computes knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: softmax temperature T, > 0; 4 in the distillation literature.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Hinton et al., arXiv 1503.02531.
    """
    errors.check_positive(temperature=temperature)
    student, teacher = as_matching_float32(student, teacher)
    log_p_teacher = jax.nn.log_softmax(teacher / temperature)
    log_p_student = jax.nn.log_softmax(student / temperature)
    return temperature**2 * divergence(log_p_teacher, log_p_student)


def kd(*, temperature: float = 4.0, standardize: bool = False) -> Objective:
    """Builds knowledge distillation on the logits; see `kd_loss`.

    Args:
      temperature: softmax temperature T, > 0.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`. Published with temperature 2 and weight 9.
    """
    errors.check_positive(temperature=temperature)

    def loss(student, teacher, batch):
        del batch
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return kd_loss(*logits, temperature=temperature)

    return stateless(loss)


RECORD = Record(
    kd,
    "softened probabilities, by KL divergence",
    "arXiv 1503.02531",
    alone={"ce": 0.1, "kd": 0.9},
)
